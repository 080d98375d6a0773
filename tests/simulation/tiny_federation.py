"""A federation in one process that trains two rounds in a second: two clients of each kind on generated data."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from fedafd.datasets.samples import PairSplit
from fedafd.datasets.shapes import ShapesOptions, client_data, public_data
from fedafd.domain.config import FederationConfig, parse_federation_config
from fedafd.domain.kinds import ClientKind
from fedafd.domain.presets import merged
from fedafd.simulation.federation import Federation, FederationProgress, SimulatedClient

__all__ = ["FEDERATION", "assert_whole", "clients", "config", "public_set", "run", "run_once"]

FEDERATION: dict[str, Any] = {
    "preset": "small",
    "embedding_dim": 16,
    "image_encoder": {
        "architecture": "resnet",
        "image_size": 16,
        "options": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    },
    "text_encoder": {
        "architecture": "bigru",
        "max_tokens": 8,
        "options": {"embedding_size": 8, "hidden_size": 8},
    },
    "server": {"passes": 1, "batch_size": 16},
    "client": {"local_epochs": 1},
    "distillation": {"start_round": 1},
}


def config(strategy: str, **changes: Any) -> FederationConfig:
    """The federation under one strategy; `changes` are blocks of further values."""
    return parse_federation_config(merged({"name": "tiny", "strategy": strategy} | FEDERATION, changes))


def public_set() -> dict[str, PairSplit]:
    """32 public pairs to train on, 8 to validate with, 16 to test with."""
    return public_data(ShapesOptions(num_train=32, num_val=8, num_test=16, seed=1))


def clients() -> list[SimulatedClient]:
    """Of each kind one client with 40 samples and one with 24."""
    options = [ShapesOptions(num_train=size, num_val=8, num_test=16, seed=seed) for seed, size in ((2, 40), (3, 24))]
    return [
        SimulatedClient(name=f"{kind.value}-{number}", kind=kind, data=client_data(kind, each))
        for kind in ClientKind
        for number, each in enumerate(options)
    ]


def run(strategy: str, public: dict[str, PairSplit], rounds: int = 2, device: str = "cpu") -> list[FederationProgress]:
    """The progress after each round."""
    federation = Federation(config(strategy), public, clients(), device=device)
    made = [FederationProgress()]
    for _ in range(rounds):
        made.append(federation.run_round(made[-1]))
    return made[1:]


@functools.cache
def run_once(strategy: str) -> tuple[FederationProgress, ...]:
    """The progress after each of two rounds on the CPU, computed once for all tests of a process."""
    return tuple(run(strategy, public_set()))


def assert_whole(last: FederationProgress, *, round_number: int) -> None:
    """The server and every client have finite metrics."""
    assert last.round_number == round_number
    assert last.server is not None
    assert last.server.metrics["rsum"] == pytest.approx(last.server.scores.mean())
    assert set(last.clients) == {client.name for client in clients()}
    for progress in last.clients.values():
        assert progress.metrics
        assert all(np.isfinite(value) for value in progress.metrics.values())
