"""Sends what the outbox holds to the distillers, after the transaction that decided it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from time import monotonic
from typing import Protocol

from fedafd.domain.errors import StorageUnavailableError
from fedafd.domain.kinds import CLAIMED_TOGETHER, StageKind
from fedafd.persistence.database import Database
from fedafd.persistence.models import OutboxRow, utc_now
from fedafd.persistence.outbox_repository import mark_sent, rounds_of, unsent_messages
from fedafd.persistence.stage_repository import announce_pending
from fedafd.telemetry.logging import get_logger
from fedafd.telemetry.tracing import span_below

__all__ = ["Memory", "Outbox"]

_log = get_logger(__name__)


class Memory(Protocol):
    """Such as fedafd.messaging.broker_memory.BrokerMemory."""

    def intact(self) -> bool:
        """False if messages may have been lost since `remember`."""

    def remember(self) -> None:
        """From here on what is sent is sent."""


class Outbox:
    """`deliver(kind, stage_id)` hands one message to the broker; blocking; raises StorageUnavailableError.

    A crash between sending and marking sends a message twice, which the stage's claim makes harmless. `memory` tells
    whether the broker still knows what it was given; once it does not, what nobody has claimed is sent again.
    `waiting` counts the messages in the broker (None: it does not answer); what left `overdue_seconds` ago, is claimed
    by nobody and waits there no more was lost by a distiller that died or was cut off, and is sent again.
    One message announces up to `folds_together` folds, or merges, or weighings, of a round: as many as whoever gets it
    claims.
    """

    def __init__(
        self,
        database: Database,
        deliver: Callable[[StageKind, str], None],
        memory: Memory | None = None,
        *,
        waiting: Callable[[], int | None] | None = None,
        overdue_seconds: float = 10.0,
        folds_together: int = 1,
    ) -> None:
        self._database = database
        self._deliver = deliver
        self._memory = memory
        self._waiting = waiting
        self._overdue = timedelta(seconds=overdue_seconds)
        self._folds_together = folds_together
        self._looked_at = monotonic()

    async def send(self) -> int:
        """Send all that is unsent; how many left. What the broker does not take stays for the next time."""
        if self._memory is not None:
            await self._check_memory(self._memory)
        if self._waiting is not None:
            await self._check_arrivals(self._waiting)
        async with self._database.snapshot() as session:
            messages = list(await unsent_messages(session))
            rounds = await rounds_of(session, [message.stage_id for message in messages]) if messages else {}
        sent: list[int] = []
        for group in self._groups(messages, rounds):
            first = group[0]
            try:
                with span_below(rounds[first.stage_id][1], "outbox.send", kind="PRODUCER", stage=first.kind):
                    await asyncio.to_thread(self._deliver, StageKind(first.kind), first.stage_id)
            except StorageUnavailableError as error:
                _log.warning("outbox.broker_unavailable", reason=str(error), unsent=len(messages) - len(sent))
                break
            sent += [message.id for message in group]
        if sent:
            async with self._database.transaction() as session:
                await mark_sent(session, sent)
        return len(sent)

    def _groups(
        self, messages: Sequence[OutboxRow], rounds: Mapping[str, tuple[str, str | None]]
    ) -> Iterator[list[OutboxRow]]:
        """Stages of a round and kind that are claimed together in groups, of which one message is enough: who gets it
        claims as many as are in one."""
        alike: dict[tuple[str, str], list[OutboxRow]] = {}
        for message in messages:
            if message.kind in CLAIMED_TOGETHER:
                alike.setdefault((rounds[message.stage_id][0], message.kind), []).append(message)
            else:
                yield [message]
        for group in alike.values():
            for start in range(0, len(group), self._folds_together):
                yield group[start : start + self._folds_together]

    async def _check_memory(self, memory: Memory) -> None:
        try:
            if await asyncio.to_thread(memory.intact):
                return
            async with self._database.transaction() as session:
                announced = await announce_pending(session)
            if announced:
                _log.warning("outbox.broker_forgot", announced_again=announced)
            await asyncio.to_thread(memory.remember)
        except StorageUnavailableError as error:
            _log.warning("outbox.broker_unavailable", reason=str(error))

    async def _check_arrivals(self, waiting: Callable[[], int | None]) -> None:
        if monotonic() - self._looked_at < self._overdue.total_seconds() / 2:
            return
        self._looked_at = monotonic()
        if await asyncio.to_thread(waiting) != 0:
            return
        async with self._database.transaction() as session:
            announced = await announce_pending(session, sent_before=utc_now() - self._overdue)
        if announced:
            _log.warning("outbox.lost_on_the_way", announced_again=announced)
