"""A personalized model is the same folder in memory and on disk, where it takes little memory to write."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.learning.tiny import tiny_bundles, tiny_recipe, tiny_state

from fedafd.artifacts.folders import pack_folder, unpack_folder
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.learning.checkpoint import Checkpoint
from fedafd.learning.model_card import SiteFacts
from fedafd.learning.personalized_export import Recipe, export_personalized_model, write_personalized_model


@pytest.mark.parametrize("kind", ClientKind)
def test_the_folder_on_disk_holds_what_the_one_in_memory_holds(kind: ClientKind, tmp_path: Path) -> None:
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
    expected = export_personalized_model(recipe, state=state, bundles=bundles)
    found = {p.relative_to(tmp_path / "model").as_posix(): p for p in (tmp_path / "model").rglob("*") if p.is_file()}
    assert {path: file.read_bytes() for path, file in found.items()} == expected


def test_a_description_that_was_not_made_here_is_refused() -> None:
    good = tiny_recipe(ClientKind.TEXT).to_json()
    for bad in ({}, good | {"kind": "sound"}, good | {"facts": {"patients": 3}}, good | {"intensity_range": [1]}):
        with pytest.raises(DataError, match="not the description"):
            Recipe.from_json(bad)


def test_writing_takes_the_memory_of_one_encoder_not_of_the_whole_state(tmp_path: Path) -> None:
    bundles = tiny_bundles()
    checkpoint = Checkpoint.from_bytes(tiny_state(ClientKind.IMAGE, bundles))
    for name in range(8):  # what optimizers remember, which no model folder needs: 256 MB
        checkpoint.tensors[f"main/{name}/moment"] = torch.zeros(8_000_000)
    (tmp_path / "state").write_bytes(checkpoint.to_bytes())
    (tmp_path / "recipe").write_text(json.dumps(tiny_recipe(ClientKind.IMAGE).to_json()))
    (tmp_path / "bundle").write_bytes(bundles[Modality.IMAGE])
    code = f"""
import json, resource, sys
from pathlib import Path
from fedafd.domain.kinds import Modality
from fedafd.learning.personalized_export import Recipe, write_personalized_model
root = Path({str(tmp_path)!r})
recipe = Recipe.from_json(json.loads((root / "recipe").read_text()))
write_personalized_model(root / "warm", recipe, state=root / "state", bundles={{Modality.IMAGE: root / "bundle"}})
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
