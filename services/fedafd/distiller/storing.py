"""Outputs on their way to the store, while the next of the stages that were claimed together is worked on.

A store that lets an object survive a crash waits for a disk, or answers over a network: milliseconds in which nothing
is computed, and which a fold of few samples takes for itself. So some stages' outputs are written at once, and where
the store gains by it, those of many small ones together.
"""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from time import perf_counter
from types import TracebackType
from typing import Generic, TypeVar

from fedafd.distiller.patience import is_outage
from fedafd.domain.errors import StorageError

__all__ = ["TOGETHER_BYTES", "Outputs", "Storing"]

_AT_ONCE = 4
_MOST_BYTES = 128 << 20
"""Of outputs that wait: beyond it the next stage waits, too."""
TOGETHER_BYTES = 1 << 20
"""Of outputs that are written together."""
T = TypeVar("T")


@dataclass(frozen=True)
class Outputs(Generic[T]):
    """What a stage leaves in the store, by key, and what that is told by."""

    objects: Mapping[str, bytes]
    meaning: T


@dataclass(eq=False)
class _Waiting(Generic[T]):
    make: Callable[[], Outputs[T]]
    size_bytes: int
    future: Future[tuple[T, float]] = field(default_factory=Future)


class Storing(Generic[T]):
    """Stores in threads of its own, which end with the block; what they log belongs to the stage that is stored."""

    def __init__(
        self,
        put: Callable[[Mapping[str, bytes]], None],
        *,
        together_bytes: int = TOGETHER_BYTES,
        most_bytes: int = _MOST_BYTES,
    ) -> None:
        """`put` stores objects by key. Outputs of up to `together_bytes` are given to it together; 0: each alone."""
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="store")
        self._put, self._together_bytes, self._most_bytes = put, together_bytes, most_bytes
        self._num_bytes, self._lock = 0, threading.RLock()
        self._small: list[_Waiting[T]] = []
        self._waiting: deque[_Waiting[T]] = deque()

    def __enter__(self) -> Storing[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            self.flush()
        for one in self._small:
            one.future.cancel()
        self._pool.shutdown(cancel_futures=kind is not None)

    def begin(self, make: Callable[[], Outputs[T]], size_bytes: int) -> Future[tuple[T, float]]:
        """Store the outputs that `make` tells, about `size_bytes`; their meaning, and when they were there, by
        perf_counter. Waits for room first, and with it whoever begins meanwhile. Small ones wait for others, until
        `flush`.

        What `make` or storing raises, the future does.
        """
        with self._lock:
            return self._begun(make, size_bytes)

    def _begun(self, make: Callable[[], Outputs[T]], size_bytes: int) -> Future[tuple[T, float]]:
        while self._waiting and (self._num_bytes + size_bytes > self._most_bytes or self._waiting[0].future.done()):
            if self._waiting[0] in self._small:
                self.flush()
            oldest = self._waiting.popleft()
            wait((oldest.future,))
            self._num_bytes -= oldest.size_bytes
        new = _Waiting(make, size_bytes)
        self._waiting.append(new)
        self._num_bytes += size_bytes
        if size_bytes >= self._together_bytes:
            self._submit([new])
        else:
            self._small.append(new)
            if sum(one.size_bytes for one in self._small) >= self._together_bytes:
                self.flush()
        return new.future

    def flush(self) -> None:
        """Store what waits for others."""
        with self._lock:
            small, self._small = self._small, []
            if small:
                self._submit(small)

    def _submit(self, group: list[_Waiting[T]]) -> None:
        self._pool.submit(contextvars.copy_context().run, self._store, group)

    def _store(self, group: list[_Waiting[T]]) -> None:
        finished = [(one, outputs) for one in group if (outputs := _outputs_of(one)) is not None]
        try:
            self._put({key: data for _, outputs in finished for key, data in outputs.objects.items()})
        except BaseException as error:
            if len(finished) > 1 and isinstance(error, StorageError) and not is_outage(error):
                for one, _ in finished:  # whose it is shows when each is stored for itself
                    self._store([one])
                return
            for one, _ in finished:
                one.future.set_exception(error)
        else:
            now = perf_counter()
            for one, outputs in finished:
                one.future.set_result((outputs.meaning, now))


def _outputs_of(one: _Waiting[T]) -> Outputs[T] | None:
    try:
        return one.make()
    except BaseException as error:
        one.future.set_exception(error)
        return None
