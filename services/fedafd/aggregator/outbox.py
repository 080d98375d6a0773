"""Sends what the outbox holds to the distillers, after the transaction that decided it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fedafd.domain.errors import StorageUnavailableError
from fedafd.domain.kinds import StageKind
from fedafd.persistence.database import Database
from fedafd.persistence.stage_repository import mark_sent, unsent_messages
from fedafd.telemetry.logging import get_logger

__all__ = ["Outbox"]

_log = get_logger(__name__)


class Outbox:
    """`deliver(kind, stage_id)` hands one message to the broker; blocking; raises StorageUnavailableError.

    A crash between sending and marking sends a message twice, which the stage's claim makes harmless.
    """

    def __init__(self, database: Database, deliver: Callable[[StageKind, str], None]) -> None:
        self._database = database
        self._deliver = deliver

    async def send(self) -> int:
        """Send all that is unsent; how many left. What the broker does not take stays for the next time."""
        async with self._database.transaction() as session:
            messages = list(await unsent_messages(session))
        for number, message in enumerate(messages):
            try:
                await asyncio.to_thread(self._deliver, StageKind(message.kind), message.stage_id)
            except StorageUnavailableError as error:
                _log.warning("outbox.broker_unavailable", reason=str(error), unsent=len(messages) - number)
                return number
            async with self._database.transaction() as session:
                await mark_sent(session, message.id)
        return len(messages)
