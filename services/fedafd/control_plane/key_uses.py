"""When API keys were last used: remembered here and written now and then.

A request that only reads would otherwise wait for its turn at writing, and fail where the database takes no writes.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from fedafd.domain.errors import FedafdError
from fedafd.persistence.api_key_repository import note_used
from fedafd.persistence.database import Database
from fedafd.persistence.models import ApiKeyRow, utc_now
from fedafd.telemetry.logging import get_logger

__all__ = ["KeyUses"]

_NOTE_AFTER = timedelta(minutes=1)
_WRITE_SECONDS = 5.0
_log = get_logger(__name__)


class KeyUses:
    """Uses of API keys that the database does not know of yet."""

    def __init__(self) -> None:
        self._used: dict[tuple[str, str], datetime] = {}
        """By key and hash of the secret."""

    def note(self, row: ApiKeyRow, secret_hash: str) -> None:
        """The key was used now, by that secret. Counted to the minute: a busy key is not written all the time."""
        now = utc_now()
        at = row.last_used_at if row.key_hash == secret_hash else row.previous_used_at
        if at is None or now - at > _NOTE_AFTER:
            self._used[row.id, secret_hash] = now

    async def write(self, database: Database) -> None:
        """Write what is not written yet; what the database does not take stays for the next time."""
        used, self._used = self._used, {}
        if not used:
            return
        try:
            async with database.transaction() as session:
                for (key_id, secret_hash), at in sorted(used.items()):
                    await note_used(session, key_id, secret_hash, at)
        except FedafdError as error:
            self._used = used | self._used
            _log.warning("key_uses.not_written", reason=str(error))

    async def keep_writing(self, database: Database) -> None:
        """Write every few seconds, for ever."""
        while True:
            await asyncio.sleep(_WRITE_SECONDS)
            await self.write(database)
