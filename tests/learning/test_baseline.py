"""The baseline is strategy `local` of the same federation, bit for bit, whatever interrupts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.learning.test_waypoints import InterruptedHereError, Until
from tests.learning.tiny import tiny_federation, tiny_private, tiny_public

from fedafd.domain.config import AveragingMode, FederationConfig, usual_task
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.domain.state_fingerprint import StateFingerprint
from fedafd.learning.alone import alone
from fedafd.learning.baseline import BaselineRound, train_alone, train_baseline
from fedafd.learning.checkpoint import Checkpoint
from fedafd.learning.waypoints import Waypoints
from fedafd.simulation.federation import Federation, FederationProgress, SimulatedClient

NAME = "clinic"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def baseline(config: FederationConfig, kind: ClientKind, rounds: int, **more: Any) -> list[BaselineRound]:
    made: list[BaselineRound] = []
    for number in range(1, rounds + 1):
        made.append(
            train_baseline(
                config=config,
                kind=kind,
                image_encoder=None,
                text_encoder=None,
                data=tiny_private(kind),
                client=NAME,
                round_number=number,
                state=made[-1].state if made else None,
                device="cpu",
                **more,
            )
        )
    return made


def simulated(kind: ClientKind, rounds: int, split: str) -> FederationProgress:
    """The same client in a simulated federation of strategy `local`."""
    client = SimulatedClient(name=NAME, kind=kind, data=tiny_private(kind))
    federation = Federation(tiny_federation(strategy="local"), tiny_public(), [client], device="cpu")
    made = FederationProgress()
    for _ in range(rounds):
        made = federation.run_round(made, evaluate_on=split)
    return made


@pytest.mark.parametrize("kind", ClientKind)
def test_it_is_strategy_local_of_the_simulation_bit_for_bit(kind: ClientKind) -> None:
    theirs = simulated(kind, 2, "test").clients[NAME]
    assert theirs.state is not None
    wanted = Checkpoint.from_bytes(theirs.state)
    # Of the federation that FedAFD trains, whose text client reads the words that the public set has, too.
    fingerprint = StateFingerprint(task=usual_task(kind))
    made = baseline(tiny_federation(), kind, 2, tokenizer=wanted.meta["tokenizer"], fingerprint=fingerprint)[-1]
    found = Checkpoint.from_bytes(made.state)
    # Only the public means differ: alone there is no public set, and nothing else depends on them.
    names = {name for name in wanted.tensors if "/mean_" not in name}
    assert {name for name in found.tensors if "/mean_" not in name} == names
    for name in names:
        assert torch.equal(found.tensors[name], wanted.tensors[name]), name
    assert found.meta == wanted.meta
    tested = made.evaluations["test"]
    assert np.array_equal(tested.scores, theirs.scores)
    assert tested.metrics == {
        name.removeprefix("federated/"): v for name, v in theirs.metrics.items() if name.startswith("federated/")
    }


@pytest.mark.parametrize("kind", [ClientKind.TEXT, ClientKind.PAIR])
def test_interrupted_in_an_epoch_it_ends_with_the_same_bits(kind: ClientKind, tmp_path: Path) -> None:
    config = tiny_federation(client={"local_epochs": 3})
    (whole,) = baseline(config, kind, 1)
    with pytest.raises(InterruptedHereError):
        baseline(config, kind, 1, progress=Until(2), waypoints=Waypoints(tmp_path, every_seconds=0))
    assert list(tmp_path.iterdir())
    (found,) = baseline(config, kind, 1, waypoints=Waypoints(tmp_path, every_seconds=0))
    assert found.state == whole.state
    assert np.array_equal(found.evaluations["val"].scores, whole.evaluations["val"].scores)


@pytest.mark.parametrize("strategy", ["fedafd", "fedavg", "probe", "creamfl", "local"])
def test_alone_means_the_same_under_every_strategy(strategy: str) -> None:
    config = alone(tiny_federation(strategy=strategy, client={"local_epochs": 4}))
    assert (config.strategy, config.averaging, config.fusion.mode) == ("local", AveragingMode.OFF, "off")
    assert config.client.local_epochs == 4
    assert alone(config) == config


def test_a_site_alone_has_its_own_words_where_the_federation_takes_the_public_sets() -> None:
    (made,) = baseline(tiny_federation(strategy="fedavg"), ClientKind.TEXT, 1)
    vocabulary = Checkpoint.from_bytes(made.state).meta["tokenizer"]
    assert all(word in vocabulary for word in tiny_private(ClientKind.TEXT).train.texts[0].split())  # type: ignore[union-attr]


def test_all_rounds_in_one_go_are_the_same_rounds() -> None:
    config = tiny_federation()
    made = train_alone(
        config=config,
        kind=ClientKind.IMAGE,
        image_encoder=None,
        text_encoder=None,
        data=tiny_private(ClientKind.IMAGE),
        rounds=2,
        client=NAME,
        device="cpu",
    )
    last = baseline(config, ClientKind.IMAGE, 2)[-1]
    assert made.state == last.state
    assert made.evaluations["test"].metrics == last.evaluations["test"].metrics
    assert np.array_equal(made.evaluations["test"].scores, last.evaluations["test"].scores)
    assert (
        Modality.IMAGE.value in Checkpoint.from_bytes(baseline(config, ClientKind.IMAGE, 1)[0].state).meta["encoders"]
    )
