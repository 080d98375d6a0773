"""What a site sends of a model that it shares: in parts where the aggregator takes them, else the whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save
from tests.agent.compared import ComparedSite
from tests.agent.scene import CountingTrainer, Scene, play
from tests.learning.tiny import IMAGE, tiny_federation

from fedafd.agent import connection as connection_module
from fedafd.agent.ledger import read_sent
from fedafd.agent.state import DELIVERED_MODEL_FILE, StateDirectory
from fedafd.agent.training import LocalResult, LocalTask, ProgressCallback
from fedafd.artifacts.folders import pack_folder, unpack_folder
from fedafd.artifacts.model_parts import BundleBase, join_parts, read_parts
from fedafd.artifacts.model_splitting import DeliveredModel, delivered_model, split_model
from fedafd.domain.kinds import ClientKind, Modality
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
        return replace(made, personalized_model=pack_folder(model(task.round_number)), model_recipe=source)


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
    found = read_parts(blob)
    assert found is not None
    parts, new = found

    def read(number: int, start: int, length: int) -> Iterator[bytes]:
        base = parts.bases[number]
        yield (BUNDLE if isinstance(base, BundleBase) else before[base.path])[start : start + length]

    return dict(join_parts(parts, new, read))


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
HEAD: dict[str, Any] = {"image_encoder": IMAGE | {"trainable": "head", "options": SIZES}}


def frozen_bytes(files: dict[str, bytes], path: str, others: dict[str, bytes]) -> int:
    """Of the tensors that are in an encoder of both models."""
    mine, theirs = (load(found[path]) for found in (files, others))
    return sum(mine[name].nbytes for name in mine if np.array_equal(mine[name], theirs[name]))


def test_of_an_encoder_with_a_trained_head_the_rest_goes_up_once(tmp_path: Path) -> None:
    """The site's real training, an encoder of its own beside the federation's, two rounds."""
    site = ComparedSite(tmp_path, ClientKind.IMAGE, alone_branch=True, **HEAD)
    site.federation = tiny_federation(**HEAD, fusion={"alone_branch": True}, client={"local_epochs": 1})
    made, sizes, kept = [], [], None
    for number in (1, 2):
        result = site.train_shared(number)
        assert result.personalized_model is not None
        path = tmp_path / f"model-{number}"
        path.write_bytes(result.personalized_model)
        made.append(unpack_folder(result.personalized_model))
        bundles = [site.task(number).encoder_bundles[Modality.IMAGE]]
        split = split_model(path, bundles, kept)
        assert split is not None
        sizes.append(len(split.blob))
        kept = DeliveredModel.from_bytes(delivered_model(path, number).to_bytes())
        site.deliver(number, result)
    whole_bytes = [(tmp_path / f"model-{number}").stat().st_size for number in (1, 2)]
    encoders = [f"{whose}/image/model.safetensors" for whose in ("local", "alone", "global")]
    frozen = [frozen_bytes(made[1], path, made[0]) for path in encoders]
    assert min(frozen) > 50_000, "nothing is frozen, so nothing is tested"
    assert sizes[0] < whole_bytes[0] - frozen[1] - frozen[2] + 5_000
    assert sizes[1] < whole_bytes[1] - sum(frozen) + 5_000
