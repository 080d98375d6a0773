"""How far a long stage came, kept at intervals in a folder or elsewhere: what interrupts the stage then costs little.

A stage that goes on from its waypoints ends with the bits that it would have had without the interruption: what is kept
is everything that its further steps depend on, the states of the random generators among it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from contextvars import copy_context
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from threading import Thread
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedafd.domain.errors import DataError, FedafdError
from fedafd.domain.process_errors import HandedBackError
from fedafd.learning.checkpoint import Checkpoint, Snapshot, tensors_below
from fedafd.learning.feeding import encode_batch
from fedafd.learning.sample_encoder import SampleEncoder, encode_all
from fedafd.telemetry.logging import get_logger

__all__ = ["EVERY_SECONDS", "NOWHERE", "TrainingWay", "WaypointStore", "Waypoints", "encode_kept"]

EVERY_SECONDS = 30.0
_LEAST_TIME_PER_SAVE = 20
"""The time between two saves, in times of what the last one took: saving costs at most a twentieth of the time."""
_TRAINING = "training"
_BLOCK = 4
"""Batches encoded between two looks at the clock: whole ones, so that the bits are those of one go."""
_SHARE_FOR_LAST = 0.2
_HANDING_BACK_SECONDS = 3.0
"""How long who hands a stage back waits for its last waypoint: the process has to end."""
_VERSIONS = f"{version('fedafd')} torch {torch.__version__}"
_log = get_logger(__name__)


class WaypointStore(Protocol):
    """Where one stage's waypoints lie, one for each part of the stage."""

    def read(self, part: str) -> bytes | None:
        """What a part kept last, whole; None for nothing. Raises OSError, and FedafdError where it is not to be had."""

    def write(self, part: str, content: Checkpoint) -> None:
        """Keep it in place of what was there: the older or the newer, never a half. Raises OSError, FedafdError."""

    def below(self, name: str) -> WaypointStore:
        """Where a part lies that has parts of its own."""


@dataclass(frozen=True)
class _Folder:
    """A folder with a file for each part."""

    path: Path

    def read(self, part: str) -> bytes | None:
        try:
            return (self.path / part).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, part: str, content: Checkpoint) -> None:
        part_file = self.path / f".part-{part}"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            content.write(part_file)
            part_file.replace(self.path / part)
        except OSError:
            with suppress(OSError):
                part_file.unlink()
            raise

    def below(self, name: str) -> WaypointStore:
        return _Folder(self.path / name)


class Waypoints:
    """One stage's waypoints, in a folder or another place; None keeps nothing and holds nothing."""

    def __init__(
        self,
        store: Path | WaypointStore | None,
        *,
        every_seconds: float | None = None,
        asked: Callable[[], bool] = lambda: False,
    ) -> None:
        """`every_seconds`: the least time between two saves; None: EVERY_SECONDS. Once `asked` says so, one is due at
        once, whenever the last was.
        """
        self._store = _Folder(store) if isinstance(store, Path) else store
        self._every = EVERY_SECONDS if every_seconds is None else every_seconds
        self._asked, self._answered = asked, False
        self._saved, self._pause = time.monotonic(), self._every
        self._saving: Thread | None = None

    def below(self, name: str) -> Waypoints:
        """Those of a part that has parts of its own."""
        store = None if self._store is None else self._store.below(name)
        return Waypoints(store, every_seconds=self._every, asked=self._asked)

    @property
    def keeps(self) -> bool:
        """Whether anything is kept at all."""
        return self._store is not None

    def last(self, part: str) -> Checkpoint | None:
        """What a part kept last; None where that is nothing, is damaged, or is another version's.

        Raises what a place other than a folder does that cannot tell.
        """
        if self._store is None:
            return None
        self.settle()
        try:
            kept = self._store.read(part)
            checkpoint = None if kept is None else Checkpoint.from_bytes(kept)
        except (OSError, DataError):
            return None
        return checkpoint if checkpoint is not None and checkpoint.meta.get("made_by") == _VERSIONS else None

    def due(self, *, last: bool = False) -> bool:
        """Whether enough time has passed since the last save; a part's `last` state is kept sooner than others."""
        if self.keeps and not self._answered and self._asked():
            return True
        if self._every and self._saving is not None and self._saving.is_alive():
            return False
        pause = self._pause * _SHARE_FOR_LAST if last else self._pause
        return self.keeps and time.monotonic() - self._saved >= pause

    def keep(self, part: str, content: Checkpoint) -> None:
        """Keep this, while the stage goes on: who ends a stage settles. What is kept is whole, the older or the newer.

        A place that is full, broken or away is told in the log: the stage can do without.
        """
        if self._store is None:
            return
        self.settle()
        self._answered = self._asked()
        content.meta["made_by"] = _VERSIONS
        self._saving = Thread(
            target=copy_context().run, args=(self._write, self._store, part, content), name="waypoint"
        )
        self._saving.start()

    def settle(self, seconds: float | None = None) -> None:
        """Wait until what is to be kept is kept, but no longer than `seconds`."""
        if self._saving is not None:
            self._saving.join(seconds)
            if not self._saving.is_alive():
                self._saving = None

    def _write(self, store: WaypointStore, part: str, content: Checkpoint) -> None:
        begun = time.monotonic()
        try:
            store.write(part, content)
        except (OSError, FedafdError) as error:
            _log.warning("waypoint.not_kept", kept_in=str(store), reason=str(error))
        self._saved = time.monotonic()
        if self._every:
            self._pause = max(self._every, _LEAST_TIME_PER_SAVE * (self._saved - begun))


NOWHERE = Waypoints(None)


class TrainingWay(AbstractContextManager[None]):
    """The waypoint of a training: the model, its optimizers, all random generators, and tensors of the loop's own.

    Training happens within it: when it is left, by an error too, what was to be kept is kept; who hands the stage back
    between two steps keeps all steps that are done.
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
        self._latest: tuple[int, Tensor | None, Mapping[str, Tensor]] | None = None
        """Of the last step that was made, and that may be kept still."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, HandedBackError) and self._waypoints.keeps and self._latest is not None:
            self._waypoints.keep(_TRAINING, self._content(*self._latest))
        self._waypoints.settle(_HANDING_BACK_SECONDS if isinstance(error, HandedBackError) else None)

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
        self._latest = done, drawn, loop
        if self._waypoints.due(last=last):
            self._latest = None
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

    def keep() -> None:
        encoded = np.concatenate(done)
        waypoints.keep(part, Checkpoint({"rows": torch.from_numpy(encoded)}, {"done": len(encoded)}))

    patience: float | None = None
    try:
        for start in range(sum(map(len, done)), len(rows), block):
            progress(start / len(rows))
            done.append(encode_all(encoder, rows[start : start + block], device))
            if waypoints.due(last=start + block >= len(rows)):
                keep()
    except HandedBackError:
        patience = _HANDING_BACK_SECONDS
        if done:
            keep()
        raise
    finally:
        waypoints.settle(patience)
    return np.concatenate(done) if done else encode_all(encoder, rows, device)
