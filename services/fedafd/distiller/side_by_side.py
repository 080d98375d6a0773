"""Folds and merges that were claimed together, worked on at the same time where CPU cores do the arithmetic.

A fold is mostly one product of matrices, a merge goes through memory once: two cores make of one little more than one
core does. Two on a core each take half the time of one after the other. Small ones are mostly calls of torch, each of
which gives Python's lock away and waits for it again: two threads take longer for them than one. So they are worked on
as they come, like all other stages.
"""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Generic, TypeVar

import torch

from fedafd.artifacts.stage_io import GLOBAL_REPRESENTATIONS
from fedafd.distiller.stages import StageWork
from fedafd.domain.kinds import StageKind

__all__ = ["SideBySide"]

_SMALL_UPLOAD_BYTES = 256 << 10
"""Of 16 folds of 128 rows of 256 numbers (131 kB) one thread took 24 ms and two 35; of 400 rows (410 kB) 43 and 40."""
_SMALL_STATE_BYTES = 768 << 10
"""Of two merges of 16 states of 0.27 MB, one thread took 21 ms and two 27; of 1.06 MB, 53 and 43."""
_MOST = 8
_MOST_BYTES = 128 << 20
"""Of inputs in work: one beyond it waits until there is room. In memory a stage takes a few times as much."""
T = TypeVar("T")


class SideBySide(Generic[T]):
    """Works on folds and merges in threads of its own, which end with the block."""

    def __init__(self, *, threads: int, most_bytes: int = _MOST_BYTES) -> None:
        """`threads`: CPU threads that all take together; 1 to work on one after the other."""
        self._threads, self._most_bytes = threads, most_bytes
        self._most = min(threads, _MOST)
        self._pool = ThreadPoolExecutor(self._most, thread_name_prefix="stage")
        self._running: deque[tuple[Future[T], int]] = deque()

    def __enter__(self) -> SideBySide[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        # A thread that is new begins with the number that was set last, by whichever thread.
        torch.set_num_threads(self._threads)

    def begin(self, work: StageWork, do: Callable[[], T]) -> Future[T]:
        """Begin the work by `do`. What it raises the future does for a fold or merge in a thread; all else is done on
        return.

        Waits until fewer are in work than may be.
        """
        if not _gains(work):
            done: Future[T] = Future()
            done.set_result(do())
            return done
        size_bytes = sum(map(len, work.inputs.values()))
        while self._running and not self._has_room(size_bytes):
            wait((self._running.popleft()[0],))
        future = self._pool.submit(contextvars.copy_context().run, do)
        self._running.append((future, size_bytes))
        return future

    def _has_room(self, size_bytes: int) -> bool:
        in_work = [size for future, size in self._running if not future.done()]
        return len(in_work) < self._most and sum(in_work) + size_bytes <= self._most_bytes


def _gains(work: StageWork) -> bool:
    """Whether the work is done sooner in a thread beside another's."""
    match work.kind:
        case StageKind.FOLD:
            num_bytes = sum(len(content) for name, content in work.inputs.items() if name != GLOBAL_REPRESENTATIONS)
            return num_bytes > _SMALL_UPLOAD_BYTES
        case StageKind.MERGE:
            return sum(map(len, work.inputs.values())) > _SMALL_STATE_BYTES * len(work.inputs)
        case _:
            return False
