"""What is done already of a round at work: a folder with the results of its stages, and waypoints within them.

Everything in it follows from the run's own state at the start of the round, so that it is the round's as long as the
run is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from fedafd.domain.kinds import Modality
from fedafd.learning.client_round import ClientRound
from fedafd.learning.waypoints import NOWHERE, Waypoints
from fedafd.simulation.files import write_folder

__all__ = ["UNKEPT", "RoundStages"]

_CLIENT, _WAY = "client-", ".way"
_STATE, _TENSORS, _FACTS, _SCORES = "state", "tensors", "facts", "scores"


class RoundStages:
    """One round's folder; None keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def file(self, stage: str) -> Path | None:
        """Where a stage's result lies once it is there."""
        return None if self._folder is None else self._folder / stage

    def begun(self) -> frozenset[str]:
        """Names of the stages of which something is kept (fedafd.simulation.effort)."""
        if self._folder is None or not self._folder.exists():
            return frozenset()
        kept = {path.name.removesuffix(_WAY) for path in self._folder.iterdir()}
        return frozenset(name.removeprefix(_CLIENT) for name in kept)

    def waypoints(self, stage: str) -> Waypoints:
        """Where a stage keeps how far it came."""
        return NOWHERE if self._folder is None else Waypoints(self._folder / f"{stage}{_WAY}")

    def client(self, name: str, train: Callable[[Waypoints], ClientRound]) -> ClientRound:
        """A client's part, done by `train` unless it is there."""
        folder = self.file(f"{_CLIENT}{name}")
        if folder is not None and folder.exists():
            return _read(folder)
        trained = train(self.waypoints(f"{_CLIENT}{name}"))
        if folder is not None:
            write_folder(folder, _files(trained))
        return trained


UNKEPT = RoundStages(None)


def _files(trained: ClientRound) -> dict[str, bytes]:
    tensors = {modality.value: rows for modality, rows in trained.representations.items()}
    facts = {"metrics": trained.metrics, "num_private_samples": trained.num_private_samples}
    return {
        _STATE: trained.state,
        _TENSORS: save({**tensors, _SCORES: trained.scores}),
        _FACTS: json.dumps(facts).encode(),
    }


def _read(folder: Path) -> ClientRound:
    tensors, facts = load((folder / _TENSORS).read_bytes()), json.loads((folder / _FACTS).read_bytes())
    scores = np.asarray(tensors.pop(_SCORES), dtype=np.float64)
    return ClientRound(
        state=(folder / _STATE).read_bytes(),
        representations={Modality(name): rows for name, rows in tensors.items()},
        metrics=facts["metrics"],
        scores=scores,
        num_private_samples=facts["num_private_samples"],
    )
