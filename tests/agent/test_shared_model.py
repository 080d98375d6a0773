"""What a site sends of a model that it shares: in parts where the aggregator takes them, else the whole."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save
from tests.agent.compared import ComparedSite
from tests.agent.scene import CountingTrainer, Scene, packed_model, play, written
from tests.learning.tiny import IMAGE, tiny_federation

from fedafd.agent import connection as connection_module
from fedafd.agent.ledger import read_sent
from fedafd.agent.state import DELIVERED_MODEL_FILE, StateDirectory
from fedafd.agent.training import LocalResult, LocalTask, ProgressCallback
from fedafd.artifacts.folders import pack_folder, unpack_folder
from fedafd.artifacts.model_parts import BundleBase, join_parts, read_parts
from fedafd.artifacts.model_splitting import DeliveredModel, delivered_model, split_model
from fedafd.domain.kinds import ClientKind
from fedafd.proto.v1 import aggregator_pb2 as pb

FROZEN = np.random.default_rng(0).standard_normal((300, 300)).astype(np.float32)
BUNDLE = pack_folder({"model.safetensors": save({"frozen": FROZEN + 1})})


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_FIRST_WAIT_SECONDS", 0.01)


class Trainer(CountingTrainer):
    """Its model has frozen weights of its own, those of the round's bundle, and a number that each round changes."""

    def train(self, task: LocalTask, progress: ProgressCallback) -> LocalResult:
        (bundle,) = task.encoder_bundles.values()
        source = {"bundles": {"image": bundle.name}}
        made = super().train(task, progress)
        return replace(made, personalized_model=written(pack_folder(model(task.round_number))), model_recipe=source)


def model(number: int) -> dict[str, bytes]:
    own = save({"frozen": FROZEN, "trained": np.full(500, number, np.float32)})
    return {"global/model.safetensors": save({"frozen": FROZEN + 1}), "local/model.safetensors": own}


def models(scene: Scene) -> list[bytes]:
    """Blobs of models that came, in order."""
    purpose = pb.UPLOAD_PURPOSE_PERSONALIZED_MODEL
    return [each.content() for each in scene.server.uploads.values() if each.request.upload_purpose == purpose]


async def rounds(scene: Scene, numbers: range, *, in_parts: bool = True) -> None:
    """Each by an agent that is started for it."""
    scene.trainer, scene.share = Trainer(), {"personalized_model": True}
    for number in numbers:
        scene.server.commits.clear()
        scene.server.assign(number, accepts_model=True, takes_parts=in_parts, bundle=BUNDLE)
        await scene.run(scene.settled)


def whole(blob: bytes, before: dict[str, bytes]) -> dict[str, bytes]:
    """What an aggregator makes of parts."""
    found = read_parts(io.BytesIO(blob))
    assert found is not None
    parts, new = found

    def read(number: int, start: int, length: int) -> Iterator[bytes]:
        base = parts.bases[number]
        yield (BUNDLE if isinstance(base, BundleBase) else before[base.path])[start : start + length]

    return {path: b"".join(content) for path, content in join_parts(parts, new, read)}


def test_an_aggregator_that_takes_no_parts_gets_the_whole(tmp_path: Path) -> None:
    scene = play(tmp_path, lambda scene: rounds(scene, range(1, 3), in_parts=False))
    assert [unpack_folder(blob) for blob in models(scene)] == [model(1), model(2)]
    assert [entry.detail for entry in read_sent(scene.state_dir) if entry.what == "personalized-model"] == ["", ""]


def test_a_restarted_agent_knows_what_it_delivered(tmp_path: Path) -> None:
    scene = play(tmp_path, lambda scene: rounds(scene, range(1, 4)))
    first, *later = models(scene)
    assert whole(first, {}) == model(1)
    assert FROZEN.nbytes < len(first) < FROZEN.nbytes + 20_000
    for number, blob in enumerate(later, start=2):
        assert len(blob) < 20_000
        assert whole(blob, model(number - 1)) == model(number)
    (commit,) = scene.server.commits
    assert commit.model_bytes == len(pack_folder(model(3)))
    # Of what was sent the site keeps the hashes; the model itself is in its model folder.
    (number, folder) = StateDirectory(scene.state_dir).current_folder() or (0, tmp_path)
    assert (number, (folder / DELIVERED_MODEL_FILE).exists()) == (3, True)
    assert not [path.name for path in folder.iterdir() if "personalized-model" in path.name]
    assert [entry.bytes for entry in read_sent(scene.state_dir) if entry.what == "personalized-model"] == [
        len(blob) for blob in (first, *later)
    ]


def test_a_model_that_was_rejected_is_no_base(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await rounds(scene, range(1, 2))
        scene.server.reject = "no"
        await rounds(scene, range(2, 3))
        scene.server.reject = None
        await rounds(scene, range(3, 4))

    *_, last = models(play(tmp_path, scenario))
    assert whole(last, model(1)) == model(3)


def test_a_receipt_that_was_lost_makes_a_base_nevertheless(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.server.break_commits = 1
        await rounds(scene, range(1, 3))

    *_, last = models(play(tmp_path, scenario))
    assert len(last) < 20_000
    assert whole(last, model(1)) == model(2)


@pytest.mark.parametrize(
    "damage", [b"", b"{}", b'{"version": 1, "files": {"a": "x"}, "portions": [["zz", "a", 0, 1]]}']
)
def test_hashes_that_are_damaged_cost_bytes_and_no_round(tmp_path: Path, damage: bytes) -> None:
    async def scenario(scene: Scene) -> None:
        await rounds(scene, range(1, 2))
        (path,) = scene.state_dir.rglob(DELIVERED_MODEL_FILE)
        path.write_bytes(damage)
        await rounds(scene, range(2, 3))

    scene = play(tmp_path, scenario)
    assert len(scene.server.commits) == 1
    assert len(models(scene)[-1]) > FROZEN.nbytes


# -- a real model ----------------------------------------------------------------------------------------------------


SIZES = {"embedding_size": 8, "hidden_sizes": [32, 64], "depths": [1, 1], "layer_type": "basic"}
TEXTS = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
LORA = {"trainable": "lora", "lora": {"rank": 1}}


def trained_as(trainable: dict[str, Any]) -> dict[str, Any]:
    """Encoders that are mostly frozen, of the federation and of a site."""
    return {
        "image_encoder": IMAGE | {"options": SIZES} | trainable,
        "text_encoder": {"architecture": "bert", "max_tokens": 16, "options": TEXTS} | trainable,
    }


def tensors_of(files: dict[str, bytes]) -> dict[str, bytes]:
    """Of all encoders, by their paths and names."""
    found = {
        path: load(content) for path, content in files.items() if path.count("/") == 2 and path.endswith("tensors")
    }
    return {f"{path}:{name}": value.tobytes() for path, tensors in found.items() for name, value in tensors.items()}


@pytest.mark.parametrize("kind", ClientKind)
@pytest.mark.parametrize(
    "trainable",
    [
        {"trainable": "head"},
        pytest.param(LORA, marks=pytest.mark.skipif(find_spec("peft") is None, reason="the extra `lora` is missing")),
    ],
    ids=["head", "lora"],
)
def test_what_is_frozen_of_encoders_goes_up_once(kind: ClientKind, trainable: dict[str, Any], tmp_path: Path) -> None:
    """The site's real training, encoders of its own beside the federation's, two rounds."""
    encoders = trained_as(trainable)
    site = ComparedSite(tmp_path, kind, alone_branch=True, **encoders)
    site.federation = tiny_federation(**encoders, fusion={"alone_branch": True}, client={"local_epochs": 1})
    made, sizes, kept = [], [], None
    for number in (1, 2):
        result = site.train_shared(number)
        path = tmp_path / f"model-{number}"
        path.write_bytes(packed_model(result, tmp_path))
        made.append(unpack_folder(path.read_bytes()))
        split = split_model(path, site.task(number).encoder_bundles.values(), kept)
        assert split is not None
        sizes.append(len(split.blob))
        kept = DeliveredModel.from_bytes(delivered_model(path, number).to_bytes())
        site.deliver(number, result)
    first, second = (tensors_of(files) for files in made)
    frozen = {name for name, content in second.items() if first.get(name) == content and ":backbone." in name}
    bundled = {name for name in second if name.startswith("global/")}
    assert {name.partition("/")[0] for name in frozen} == {path.partition("/")[0] for path in made[1] if "/" in path}
    for encoder in {name.partition(":")[0] for name in second}:
        assert sum(len(second[name]) for name in frozen if name.startswith(encoder)) > 100_000, encoder
    new = sum(len(content) for name, content in second.items() if name not in frozen | bundled)
    around = 1024 * len(made[1]) + sum(len(c) for path, c in made[1].items() if path.count("/") < 2) + 60_000
    assert sizes[1] < new + around
    once = {second[name] for name in frozen - bundled}
    assert sizes[0] < new + sum(map(len, once)) + around
