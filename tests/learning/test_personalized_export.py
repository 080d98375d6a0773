"""A personalized model is the same folder where it is shared and where it stays, and takes little memory to write."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from tests.full_disk import full_disk
from tests.learning.tiny import shared_files, tiny_bundles, tiny_recipe, tiny_state

from fedafd.artifacts.folders import pack_folder, unpack_folder
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.learning.checkpoint import Checkpoint
from fedafd.learning.model_card import SiteFacts
from fedafd.learning.personalized_export import Recipe, write_personalized_model, write_shared_model


@pytest.mark.parametrize("kind", ClientKind)
def test_the_folder_of_the_site_holds_what_the_shared_one_holds(kind: ClientKind, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    bundles = tiny_bundles()
    state = tiny_state(kind, bundles)
    (tmp_path / "state").write_bytes(state)
    paths = {}
    for modality, blob in bundles.items():
        # A file that no loader reads is not taken over.
        paths[modality] = tmp_path / modality.value
        paths[modality].write_bytes(pack_folder(unpack_folder(blob) | {"run_me.py": b"raise SystemExit"}))
    facts = SiteFacts(samples={"train": 7}, classes={"a": 3})
    recipe = tiny_recipe(kind, facts=facts, intensity_range=(0.0, 4095.0))
    again = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert again == recipe
    write_personalized_model(tmp_path / "model", again, state=tmp_path / "state", bundles=paths)
    expected = shared_files(recipe, state=state, bundles=bundles)
    found = {p.relative_to(tmp_path / "model").as_posix(): p for p in (tmp_path / "model").rglob("*") if p.is_file()}
    assert {path: file.read_bytes() for path, file in found.items()} == expected


def test_a_description_that_was_not_made_here_is_refused() -> None:
    good = tiny_recipe(ClientKind.TEXT).to_json()
    for bad in ({}, good | {"kind": "sound"}, good | {"facts": {"patients": 3}}, good | {"intensity_range": [1]}):
        with pytest.raises(DataError, match="not the description"):
            Recipe.from_json(bad)


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
def test_writing_takes_the_memory_of_one_encoder_not_of_the_whole_state_or_bundle(shared: bool, tmp_path: Path) -> None:
    bundles = tiny_bundles()
    checkpoint = Checkpoint.from_bytes(tiny_state(ClientKind.IMAGE, bundles))
    for name in range(8):  # what optimizers remember, which no model folder needs: 256 MB
        checkpoint.tensors[f"main/{name}/moment"] = torch.zeros(8_000_000)
    (tmp_path / "state").write_bytes(checkpoint.to_bytes())
    (tmp_path / "recipe").write_text(json.dumps(tiny_recipe(ClientKind.IMAGE).to_json()))
    files = unpack_folder(bundles[Modality.IMAGE])
    large = save({"frozen": torch.zeros(64_000_000)})  # 256 MB, too
    (tmp_path / "bundle").write_bytes(pack_folder(files | {"model.safetensors": large}))
    write = "write_shared_model" if shared else "write_personalized_model"
    code = f"""
import json, resource, sys
from pathlib import Path
from fedafd.domain.kinds import Modality
from fedafd.learning.personalized_export import Recipe, {write}
root = Path({str(tmp_path)!r})
recipe = Recipe.from_json(json.loads((root / "recipe").read_text()))
{write}(root / "warm", recipe, state=root / "state", bundles={{Modality.IMAGE: root / "bundle"}})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    import_only = (
        "import resource, fedafd.learning.personalized_export, huggingface_hub; print(resource.getrusage(0)[2])"
    )
    peaks = []
    for source in (import_only, code):
        done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 128, peaks


def test_a_full_disk_is_told_by_its_number_and_leaves_nothing_beside_the_model(tmp_path: Path) -> None:
    bundles = tiny_bundles()
    (tmp_path / "state").write_bytes(tiny_state(ClientKind.TEXT, bundles))
    (tmp_path / "bundle").write_bytes(bundles[Modality.TEXT])
    (tmp_path / "disk").mkdir()
    with full_disk(tmp_path / "disk"):
        (tmp_path / "disk" / "filler").write_bytes(b"")  # the first files find room, the weights do not
        with pytest.raises(OSError) as raised:
            write_shared_model(
                tmp_path / "disk" / "model",
                tiny_recipe(ClientKind.TEXT),
                state=tmp_path / "state",
                bundles={Modality.TEXT: tmp_path / "bundle"},
            )
        assert raised.value.errno == errno.ENOSPC
        assert not (tmp_path / "disk" / "model.folder").exists()
