"""Sends what the outbox holds to the distillers, after the transaction that decided it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from fedafd.domain.errors import StorageUnavailableError
from fedafd.domain.kinds import StageKind
from fedafd.persistence.database import Database
from fedafd.persistence.stage_repository import announce_pending, mark_sent, traceparents, unsent_messages
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
    """

    def __init__(
        self, database: Database, deliver: Callable[[StageKind, str], None], memory: Memory | None = None
    ) -> None:
        self._database = database
        self._deliver = deliver
        self._memory = memory

    async def send(self) -> int:
        """Send all that is unsent; how many left. What the broker does not take stays for the next time."""
        if self._memory is not None:
            await self._check_memory(self._memory)
        async with self._database.snapshot() as session:
            messages = list(await unsent_messages(session))
            parents = await traceparents(session, [message.stage_id for message in messages])
        for number, message in enumerate(messages):
            try:
                with span_below(parents[message.stage_id], "outbox.send", kind="PRODUCER", stage=message.kind):
                    await asyncio.to_thread(self._deliver, StageKind(message.kind), message.stage_id)
            except StorageUnavailableError as error:
                _log.warning("outbox.broker_unavailable", reason=str(error), unsent=len(messages) - number)
                return number
            async with self._database.transaction() as session:
                await mark_sent(session, message.id)
        return len(messages)

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
