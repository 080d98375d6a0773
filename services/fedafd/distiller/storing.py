"""Outputs on their way to the store, while the next of the stages that were claimed together is worked on.

A store that lets an object survive a crash waits for a disk, or answers over a network: milliseconds in which nothing
is computed, and which a fold of few samples takes for itself. So some objects are written at once.
"""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from time import perf_counter
from types import TracebackType
from typing import Generic, TypeVar

__all__ = ["Storing"]

_AT_ONCE = 4
_MOST_BYTES = 128 << 20
"""Of outputs that wait: beyond it the next stage waits, too."""
T = TypeVar("T")


class Storing(Generic[T]):
    """Stores in threads of its own, which end with the block; what they log belongs to the stage that is stored."""

    def __init__(self, *, most_bytes: int = _MOST_BYTES) -> None:
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="store")
        self._most_bytes, self._num_bytes = most_bytes, 0
        self._waiting: deque[tuple[Future[tuple[T, float]], int]] = deque()

    def __enter__(self) -> Storing[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)

    def begin(self, store: Callable[[], T], size_bytes: int) -> Future[tuple[T, float]]:
        """Call `store`, which writes `size_bytes`, and note when it ended, by perf_counter; waits for room first.

        What it raises, the future does.
        """
        while self._waiting and (self._num_bytes + size_bytes > self._most_bytes or self._waiting[0][0].done()):
            oldest, freed_bytes = self._waiting.popleft()
            wait((oldest,))
            self._num_bytes -= freed_bytes
        future = self._pool.submit(contextvars.copy_context().run, _timed, store)
        self._waiting.append((future, size_bytes))
        self._num_bytes += size_bytes
        return future


def _timed(store: Callable[[], T]) -> tuple[T, float]:
    return store(), perf_counter()
