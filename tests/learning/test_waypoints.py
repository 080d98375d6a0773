"""A long stage that is interrupted anywhere goes on from its waypoints to the same bits."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from threading import Event
from threading import enumerate as enumerate_threads
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.learning.test_ahead import Simulated
from tests.simulation.test_simulate import TINY
from torch import Tensor

from fedafd.datasets.shapes import ShapesOptions, client_data, public_data
from fedafd.domain.config import FederationConfig, parse_federation_config
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.domain.presets import merged
from fedafd.domain.process_errors import HandedBackError
from fedafd.learning import global_training
from fedafd.learning import waypoints as module
from fedafd.learning.ahead import ahead
from fedafd.learning.checkpoint import Checkpoint
from fedafd.learning.client_round import train_client
from fedafd.learning.process_start import training_processes
from fedafd.learning.sample_encoder import SampleEncoder, encode_all
from fedafd.learning.server_round import Prepared, distil, initial_server_state, prepare
from fedafd.learning.waypoints import NOWHERE, TrainingWay, Waypoints, encode_kept

PUBLIC = public_data(ShapesOptions(num_train=40, num_val=8, num_test=8, seed=1))["train"]
BERT = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
DROPOUT = {"text_encoder": {"architecture": "bert", "options": BERT}}


class InterruptedHereError(Exception):
    """What a signal is to a process."""


class Until:
    """Progress that goes on until its n-th step; a batch that is encoded between two says the last share again."""

    def __init__(self, steps: int, error: type[Exception] = InterruptedHereError) -> None:
        self.steps, self.seen, self._error = steps, 0, error
        self._share = -1.0

    def __call__(self, share: float, *_: object) -> None:
        if share == self._share:
            return
        self._share = share
        self.seen += 1
        if self.seen > self.steps:
            raise self._error


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def config(**changes: Any) -> FederationConfig:
    return parse_federation_config(merged({"name": "tiny", "strategy": "fedafd"} | TINY["federation"], changes))


def prepared(made: FederationConfig, waypoints: Waypoints, progress: Any = lambda *_: None) -> Prepared:
    state = initial_server_state(config=made, captions=PUBLIC.captions, seed=0)
    return prepare(
        config=made,
        state=state,
        public=PUBLIC,
        round_number=1,
        seed=5,
        device="cpu",
        progress=progress,
        waypoints=waypoints,
    )


def same(one: Prepared, other: Prepared) -> bool:
    return (
        one.state == other.state
        and one.bundles == other.bundles
        and all(np.array_equal(rows, other.representations[m]) for m, rows in one.representations.items())
    )


@pytest.mark.parametrize("optimizer", ["adamp", "adam", "adamw", "sgd"])
def test_public_passes_that_are_interrupted_time_and_again_give_the_same_bits(tmp_path: Path, optimizer: str) -> None:
    made = config(server={"optimizer": optimizer, "initial_passes": 2})
    whole = prepared(made, NOWHERE)
    steps = 0
    while True:
        progress = Until(2)
        steps += 1
        try:
            found = prepared(made, Waypoints(tmp_path, every_seconds=0), progress)
            break
        except InterruptedHereError:
            assert steps < 20
    # 3 passes of 2 steps, then two modalities: each attempt does two of them.
    assert steps > 3
    assert same(found, whole)


def test_dropout_goes_on_where_it_was(tmp_path: Path) -> None:
    made = config(**DROPOUT)
    whole = prepared(made, NOWHERE)
    with pytest.raises(InterruptedHereError):
        prepared(made, Waypoints(tmp_path, every_seconds=0), Until(1))
    assert same(prepared(made, Waypoints(tmp_path, every_seconds=0)), whole)


def test_encodings_are_not_made_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 1)
    monkeypatch.setattr(module, "encode_batch", lambda _: 16)
    made = config()
    whole = prepared(made, NOWHERE)
    encoded: list[int] = []

    def noted(encoder: SampleEncoder, rows: Tensor, device: torch.device) -> NDArray[np.float32]:
        encoded.append(len(rows))
        return encode_all(encoder, rows, device)

    monkeypatch.setattr(module, "encode_all", noted)
    with pytest.raises(InterruptedHereError):
        prepared(made, Waypoints(tmp_path, every_seconds=0), Until(2 + 2))  # two steps, two blocks of images
    assert encoded == [16, 16]
    found = prepared(made, Waypoints(tmp_path, every_seconds=0))
    assert encoded == [16, 16, 8, 16, 16, 8]
    assert found.state == whole.state
    for modality in Modality:
        np.testing.assert_allclose(found.representations[modality], whole.representations[modality], atol=1e-6)


def test_who_hands_a_stage_back_has_kept_the_rows_that_were_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK", 1)
    monkeypatch.setattr(module, "encode_batch", lambda _: 16)
    encoder: Any = None
    rows = torch.arange(80, dtype=torch.float32).reshape(40, 2)
    encoded: list[int] = []

    def noted(_: object, block: Tensor, __: object) -> NDArray[np.float32]:
        encoded.append(len(block))
        return block.numpy()

    monkeypatch.setattr(module, "encode_all", noted)
    device = torch.device("cpu")
    with pytest.raises(HandedBackError):
        encode_kept(encoder, rows, device, Waypoints(tmp_path, every_seconds=3600), "image", Until(2, HandedBackError))
    found = encode_kept(encoder, rows, device, Waypoints(tmp_path, every_seconds=3600), "image")
    assert encoded == [16, 16, 8]
    assert np.array_equal(found, rows.numpy())


def test_what_was_drawn_ahead_is_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = config(server={"initial_passes": 2})
    whole = prepared(made, NOWHERE)
    # As on a GPU: the next batch is drawn before a step is taken.
    monkeypatch.setattr(global_training, "ahead", lambda source, device: ahead(source, device, Simulated()))
    assert same(prepared(made, NOWHERE), whole)
    for steps in (1, 2):
        with pytest.raises(InterruptedHereError):
            prepared(made, Waypoints(tmp_path / str(steps), every_seconds=0), Until(steps))
        assert same(prepared(made, Waypoints(tmp_path / str(steps), every_seconds=0)), whole)


def test_a_distillation_goes_on(tmp_path: Path) -> None:
    made = config(distillation={"passes": 3, "start_round": 1})
    before = prepared(made, NOWHERE)

    def distilled(waypoints: Waypoints, progress: Any = lambda *_: None) -> bytes:
        return distil(
            config=made,
            state=before.state,
            public=PUBLIC,
            representations=before.representations,
            aggregates={m: np.roll(rows, 1, axis=0) for m, rows in before.representations.items()},
            round_number=1,
            seed=7,
            device="cpu",
            progress=progress,
            waypoints=waypoints,
        )

    whole = distilled(NOWHERE)
    with pytest.raises(InterruptedHereError):
        distilled(Waypoints(tmp_path, every_seconds=0), Until(3))
    remaining = Until(100)
    assert distilled(Waypoints(tmp_path, every_seconds=0), remaining) == whole
    assert remaining.seen == 3  # of 3 passes of 2 steps


@pytest.mark.parametrize("mode", ["adversarial+pairing", "contrastive"])
@pytest.mark.parametrize("kind", list(ClientKind))
def test_a_client_goes_on_from_its_last_epoch(tmp_path: Path, kind: ClientKind, mode: str) -> None:
    made = config(client={"local_epochs": 3}, alignment={"mode": mode}, fusion={"warm_start_steps": 2})
    sent = prepared(made, NOWHERE)

    def trained(waypoints: Waypoints, progress: Any = lambda *_: None) -> Any:
        return train_client(
            config=made,
            kind=kind,
            image_encoder=None,
            text_encoder=None,
            data=client_data(kind, ShapesOptions(num_train=64, num_val=8, num_test=8, seed=2)),
            public=PUBLIC,
            global_representations=sent.representations,
            bundles={m: sent.bundles[m] for m in kind.modalities},
            state=None,
            round_number=1,
            seed=3,
            device="cpu",
            progress=progress,
            waypoints=waypoints,
        )

    whole = trained(NOWHERE)
    counted = Until(1000)
    trained(NOWHERE, counted)
    with pytest.raises(InterruptedHereError):
        trained(Waypoints(tmp_path, every_seconds=0), Until(1 + 5))  # in the third epoch of two steps
    again = Until(1000)
    found = trained(Waypoints(tmp_path, every_seconds=0), again)
    assert again.seen == counted.seen - 4
    assert found.state == whole.state
    assert found.metrics == whole.metrics
    assert all(np.array_equal(rows, found.representations[m]) for m, rows in whole.representations.items())


@pytest.mark.parametrize("damage", ["cut", "another version"])
def test_a_waypoint_that_does_not_fit_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    made = config()
    with pytest.raises(InterruptedHereError):
        prepared(made, Waypoints(tmp_path, every_seconds=0), Until(1))
    if damage == "cut":
        (tmp_path / "training").write_bytes((tmp_path / "training").read_bytes()[:-100])
    else:
        monkeypatch.setattr(module, "_VERSIONS", "another")
    assert Waypoints(tmp_path).last("training") is None
    assert same(prepared(made, Waypoints(tmp_path, every_seconds=0)), prepared(made, NOWHERE))


@pytest.mark.parametrize("at", range(1, 6), ids=lambda at: f"step-{at}")
def test_who_hands_a_stage_back_between_two_steps_has_kept_all_that_was_done(tmp_path: Path, at: int) -> None:
    """Though nothing was due: no step is made again."""
    made = config(server={"initial_passes": 2})  # 6 steps
    counted, again = Until(1000), Until(1000)
    whole = prepared(made, Waypoints(tmp_path / "whole", every_seconds=3600), counted)
    with pytest.raises(HandedBackError):
        prepared(made, Waypoints(tmp_path, every_seconds=3600), Until(at, HandedBackError))
    found = prepared(made, Waypoints(tmp_path, every_seconds=3600), again)
    assert same(found, whole)
    assert again.seen == counted.seen - at


def test_who_is_asked_to_end_keeps_something_at_once(tmp_path: Path) -> None:
    asked: list[bool] = []
    ways = Waypoints(tmp_path, every_seconds=3600, asked=lambda: bool(asked))
    assert not ways.due()
    asked.append(True)
    assert ways.due()
    ways.keep("training", Checkpoint({"rows": torch.ones(1)}))
    ways.settle()
    assert not ways.due()


def test_nothing_is_kept_before_its_time(tmp_path: Path) -> None:
    prepared(config(), Waypoints(tmp_path / "way", every_seconds=3600))
    assert not (tmp_path / "way").exists()


def test_a_folder_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "way").write_text("in the way")
    assert same(prepared(config(), Waypoints(tmp_path / "way", every_seconds=0)), prepared(config(), NOWHERE))


def killed_while_it_writes(folder: Path) -> None:
    """Keep one content, and die by a signal that nothing can hear while the next is on its way to the disk."""
    ways = Waypoints(folder, every_seconds=0)
    ways.keep("training", Checkpoint({"rows": torch.ones(4)}))
    ways.settle()
    Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
    ways.keep("training", Checkpoint({"rows": torch.zeros(1 << 20)}))
    ways.settle()


def test_who_is_killed_while_it_keeps_something_has_kept_what_was_before(tmp_path: Path) -> None:
    process = training_processes("cpu").Process(target=killed_while_it_writes, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / ".part-training").exists()
    held = Waypoints(tmp_path).last("training")
    assert held is not None
    assert torch.equal(held.tensors["rows"], torch.ones(4))


def test_a_stage_goes_on_while_something_is_kept_and_what_is_kept_is_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write = Event()
    write = Checkpoint.write
    monkeypatch.setattr(Checkpoint, "write", lambda self, path: may_write.wait(60) and write(self, path))
    model = torch.nn.Linear(2, 2)
    before = model.weight.detach().clone()
    ways = Waypoints(tmp_path, every_seconds=0.0)
    way = TrainingWay(ways, model, {}, torch.device("cpu"), torch.Generator())
    way.keep(1, last=True)
    with torch.no_grad():
        model.weight.zero_()
    assert not (tmp_path / "training").exists()
    may_write.set()
    with way:
        pass
    assert not [thread for thread in enumerate_threads() if thread.name == "waypoint"]
    held = ways.last("training")
    assert held is not None
    assert torch.equal(held.tensors["model/weight"], before)


def test_nothing_is_due_while_the_last_is_not_kept_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_write = Event()
    monkeypatch.setattr(Checkpoint, "write", lambda self, path: path.touch() if may_write.wait(60) else None)
    ways = Waypoints(tmp_path, every_seconds=1e-9)
    ways.keep("training", Checkpoint())
    assert not ways.due()
    may_write.set()
    ways.settle()
    assert ways.due() or ways._pause > 1e-9


def test_a_folder_that_cannot_be_written_to_costs_the_waypoint_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    ways = Waypoints(tmp_path / "file", every_seconds=0)
    ways.keep("training", Checkpoint({"rows": torch.ones(1)}))
    assert ways.last("training") is None
