"""What does not change about a round while it is collecting, read once for all of its clients."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from fedafd.domain.kinds import ParticipantKind
from fedafd.messaging.wakeups import Change
from fedafd.persistence.database import Database
from fedafd.persistence.models import RoundRow
from fedafd.persistence.round_repository import get_round
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.proto.v1 import types_pb2

__all__ = ["Once", "RoundFacts", "RoundTask"]

K = TypeVar("K")
V = TypeVar("V")
_MOST = 100
RoundTask = tuple[pb.TrainTask, list[types_pb2.Artifact]]
"""A round's task for one kind of client, without what is each client's own; and its artifacts with their keys."""


class Once(Generic[K, V]):
    """Values by key; one that is being made is waited for, not made again, and made to its end whoever gives up."""

    def __init__(self) -> None:
        self._values: dict[K, V] = {}
        self._making: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K, make: Callable[[], Awaitable[V]]) -> V:
        """The value, made by `make` if it is not there."""
        if key in self._values:
            return self._values[key]
        task = self._making.get(key)
        if task is None:
            task = self._making[key] = asyncio.create_task(self._computed(key, make))
            task.add_done_callback(_heard)
        return await asyncio.shield(task)

    def clear(self) -> None:
        """Forget all values, those too that are being made."""
        self._values.clear()
        self._making.clear()

    async def _computed(self, key: K, make: Callable[[], Awaitable[V]]) -> V:
        own = asyncio.current_task()
        try:
            value = await make()
            if self._making.get(key) is own:
                while len(self._values) >= _MOST:
                    self._values.pop(next(iter(self._values)))
                self._values[key] = value
            return value
        finally:
            if self._making.get(key) is own:
                del self._making[key]


def _heard(task: asyncio.Task[V]) -> None:
    """Take note of an error that nobody waits for any more: asyncio would complain of it."""
    if not task.cancelled():
        task.exception()


class RoundFacts:
    """Rows and tasks of rounds that are collecting."""

    def __init__(self) -> None:
        self._rows: Once[str, RoundRow] = Once()
        self._tasks: Once[tuple[str, ParticipantKind], RoundTask] = Once()

    async def row(self, database: Database, round_id: str) -> RoundRow:
        """The round's row, for what is set before it collects; its state may be an old one. Raises NotFoundError."""

        async def read() -> RoundRow:
            async with database.snapshot() as session:
                return await get_round(session, round_id)

        return await self._rows.get(round_id, read)

    async def task(self, round_id: str, kind: ParticipantKind, make: Callable[[], Awaitable[RoundTask]]) -> RoundTask:
        """What the round asks of clients of a kind."""
        return await self._tasks.get((round_id, kind), make)

    def forget(self, change: Change | None) -> None:
        """Rounds moved, or anything else changed for a whole federation (None: for any)."""
        if change is None or change.clients is None:
            self._rows.clear()
            self._tasks.clear()
