"""Signs of life of agents that hold their session already: written every few seconds, for all of them at once.

An agent that waits for a round calls once a minute, and each call extends its session. Written one by one, that is a
transaction for each call, which is most of what waiting costs. What is lost when the process dies is a few seconds of
a session that the agent's next call extends again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta

from fedafd.domain.errors import DatabaseUnavailableError
from fedafd.persistence.caller_repository import CallingClient
from fedafd.persistence.database import Database
from fedafd.persistence.session_repository import renew_sessions
from fedafd.telemetry.logging import get_logger

__all__ = ["Renewals"]

_SECONDS = 5.0
_log = get_logger(__name__)


@dataclass(frozen=True)
class _Renewal:
    session: str
    seen_at: datetime
    until: datetime


class Renewals:
    """Notes at once, writes `seconds` later; what cannot be written waits for the next time."""

    def __init__(self, database: Database, *, seconds: float = _SECONDS) -> None:
        self._database, self._seconds = database, seconds
        self._noted: dict[str, _Renewal] = {}
        self._writing: asyncio.Task[None] | None = None

    def take(self, client: CallingClient, own: str, now: datetime, until: datetime) -> bool:
        """Extend the session later; False if it is not the caller's, or may be over before that is written."""
        if client.session != own or client.session_until is None:
            return False
        if client.session_until - now < timedelta(seconds=2 * self._seconds):
            return False
        client.session_until = until
        self._noted[client.id] = _Renewal(own, now, until)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.ensure_future(self._write())
        return True

    async def flush(self) -> None:
        """Write what was noted. Raises DatabaseUnavailableError, and keeps it then."""
        noted, self._noted = self._noted, {}
        if not noted:
            return
        rows = [
            {"client": client, "own": renewal.session, "now": renewal.seen_at, "until": renewal.until}
            for client, renewal in sorted(noted.items())
        ]
        try:
            async with self._database.transaction() as session:
                await renew_sessions(session, rows)
        except DatabaseUnavailableError:
            self._noted = noted | self._noted
            raise

    async def close(self) -> None:
        """Write the rest."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait((self._writing,))
        try:
            await self.flush()
        except DatabaseUnavailableError as error:
            _log.info("renewals.lost", reason=str(error))

    async def _write(self) -> None:
        while self._noted:
            await asyncio.sleep(self._seconds)
            try:
                await self.flush()
            except DatabaseUnavailableError as error:
                _log.debug("renewals.wait", reason=str(error))
