"""How far a long stage came, kept at intervals in a folder, so that what interrupts the stage costs little.

A stage that goes on from its waypoints ends with the bits that it would have had without the interruption: what is kept
is everything that its further steps depend on, the states of the random generators among it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from importlib.metadata import version
from pathlib import Path
from threading import Thread

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedafd.domain.errors import DataError
from fedafd.learning.checkpoint import Checkpoint, Snapshot, tensors_below
from fedafd.learning.feeding import encode_batch
from fedafd.learning.sample_encoder import SampleEncoder, encode_all
from fedafd.telemetry.logging import get_logger

__all__ = ["EVERY_SECONDS", "NOWHERE", "TrainingWay", "Waypoints", "encode_kept"]

EVERY_SECONDS = 30.0
_LEAST_TIME_PER_SAVE = 20
"""The time between two saves, in times of what the last one took: saving costs at most a twentieth of the time."""
_TRAINING = "training"
_BLOCK = 4
"""Batches encoded between two looks at the clock: whole ones, so that the bits are those of one go."""
_SHARE_FOR_LAST = 0.2
_VERSIONS = f"{version('fedafd')} torch {torch.__version__}"
_log = get_logger(__name__)


class Waypoints:
    """One stage's folder, with a file for each part of the stage; None keeps nothing and holds nothing."""

    def __init__(self, folder: Path | None, *, every_seconds: float | None = None) -> None:
        """`every_seconds`: the least time between two saves; None: EVERY_SECONDS."""
        self._folder = folder
        self._every = EVERY_SECONDS if every_seconds is None else every_seconds
        self._saved, self._pause = time.monotonic(), self._every
        self._saving: Thread | None = None

    def below(self, name: str) -> Waypoints:
        """Those of a part that has parts of its own."""
        return Waypoints(None if self._folder is None else self._folder / name, every_seconds=self._every)

    @property
    def keeps(self) -> bool:
        """Whether anything is kept at all."""
        return self._folder is not None

    def last(self, part: str) -> Checkpoint | None:
        """What a part kept last; None where that is nothing, is damaged, or is another version's."""
        if self._folder is None:
            return None
        self.settle()
        try:
            checkpoint = Checkpoint.from_bytes((self._folder / part).read_bytes())
        except (OSError, DataError):
            return None
        return checkpoint if checkpoint.meta.get("made_by") == _VERSIONS else None

    def due(self, *, last: bool = False) -> bool:
        """Whether enough time has passed since the last save; a part's `last` state is kept sooner than others."""
        if self._every and self._saving is not None and self._saving.is_alive():
            return False
        pause = self._pause * _SHARE_FOR_LAST if last else self._pause
        return self.keeps and time.monotonic() - self._saved >= pause

    def keep(self, part: str, content: Checkpoint) -> None:
        """Keep this, while the stage goes on: who ends a stage settles. What is kept is whole, the older or the newer.

        A disk that is full or broken is told in the log: the stage can do without.
        """
        if self._folder is None:
            return
        self.settle()
        content.meta["made_by"] = _VERSIONS
        self._saving = Thread(target=self._write, args=(self._folder, part, content), name="waypoint")
        self._saving.start()

    def settle(self) -> None:
        """Wait until what is to be kept is kept."""
        if self._saving is not None:
            self._saving.join()
            self._saving = None

    def _write(self, folder: Path, part: str, content: Checkpoint) -> None:
        begun = time.monotonic()
        part_file = folder / f".part-{part}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            content.write(part_file)
            part_file.replace(folder / part)
        except OSError as error:
            _log.warning("waypoint.not_kept", folder=str(folder), reason=str(error))
            with suppress(OSError):
                part_file.unlink()
        self._saved = time.monotonic()
        if self._every:
            self._pause = max(self._every, _LEAST_TIME_PER_SAVE * (self._saved - begun))


NOWHERE = Waypoints(None)


class TrainingWay(AbstractContextManager[None]):
    """The waypoint of a training: the model, its optimizers, all random generators, and tensors of the loop's own.

    Training happens within it: when it is left, by an error too, what was to be kept is kept.
    """

    def __init__(
        self,
        waypoints: Waypoints,
        model: nn.Module,
        optimizers: Mapping[str, torch.optim.Optimizer],
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        self._waypoints, self._model, self._optimizers = waypoints, model, optimizers
        self._device, self._generator = device, generator

    def __exit__(self, *_: object) -> None:
        self._waypoints.settle()

    def restore(self) -> tuple[int, dict[str, Tensor]]:
        """Go on from what was kept: how many steps are done, and the loop's own tensors. 0 and none at the start."""
        saved = self._waypoints.last(_TRAINING)
        if saved is None:
            return 0, {}
        saved.load_module("model", self._model)
        for name, optimizer in self._optimizers.items():
            saved.load_optimizer(name, optimizer)
        random = tensors_below(saved.tensors, "random")
        self._generator.set_state(random["own"])
        torch.set_rng_state(random["cpu"])
        if self._device.type == "cuda" and "cuda" in random:
            torch.cuda.set_rng_state(random["cuda"], self._device)
        return int(saved.meta["done"]), tensors_below(saved.tensors, "loop")

    def keep(self, done: int, *, drawn: Tensor | None = None, last: bool = False, **loop: Tensor) -> None:
        """Keep the state after `done` steps, `last` of them all, if that is due.

        `drawn`: the generator's state behind the draws of these steps, where more was drawn ahead.
        """
        if self._waypoints.due(last=last):
            self._waypoints.keep(_TRAINING, self._content(done, drawn, loop))

    def _content(self, done: int, drawn: Tensor | None, loop: Mapping[str, Tensor]) -> Checkpoint:
        kept = Snapshot({f"loop/{name}": tensor for name, tensor in loop.items()}, {"done": done})
        kept.add_module("model", self._model)
        for name, optimizer in self._optimizers.items():
            kept.add_optimizer(name, optimizer)
        kept.tensors["random/own"] = self._generator.get_state() if drawn is None else drawn
        kept.tensors["random/cpu"] = torch.get_rng_state()
        if self._device.type == "cuda":
            kept.tensors["random/cuda"] = torch.cuda.get_rng_state(self._device)
        return kept


def encode_kept(
    encoder: SampleEncoder,
    rows: Tensor,
    device: torch.device,
    waypoints: Waypoints,
    part: str,
    progress: Callable[[float], None] = lambda _: None,
) -> NDArray[np.float32]:
    """As fedafd.learning.sample_encoder.encode_all, in blocks that `waypoints` keeps under the name `part`."""
    if not waypoints.keeps:
        return encode_all(encoder, rows, device)
    saved = waypoints.last(part)
    done = [] if saved is None else [saved.tensors["rows"].numpy()]
    block = _BLOCK * encode_batch(device)
    try:
        for start in range(sum(map(len, done)), len(rows), block):
            progress(start / len(rows))
            done.append(encode_all(encoder, rows[start : start + block], device))
            if waypoints.due(last=start + block >= len(rows)):
                waypoints.keep(part, Checkpoint({"rows": torch.from_numpy(np.concatenate(done))}))
    finally:
        waypoints.settle()
    return np.concatenate(done) if done else encode_all(encoder, rows, device)
