"""Reads of models in the audit log: written before the first byte leaves, and once a minute for the same again.

Whoever may read could otherwise fill the database by reading the same thing a million times.
"""

from __future__ import annotations

from collections import OrderedDict
from time import monotonic
from typing import TYPE_CHECKING

from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.persistence.event_repository import record_event

if TYPE_CHECKING:
    from fedafd.control_plane.callers import Caller
    from fedafd.persistence.database import Database

__all__ = ["ModelRead", "ModelReads"]

_AGAIN_SECONDS = 60.0
_MOST = 10_000
"""Reads that are remembered; beyond it the oldest is forgotten, and its repetition is one more event."""


class ModelRead:
    """What somebody reads: a version of a federation's model, or of a client's personalized one."""

    def __init__(self, caller: Caller, federation: str, client: str | None, version: int, what: str) -> None:
        """`what` is the path of a file, or `archive`, `details` or `tickets` in brackets."""
        self.key = (caller.actor, federation, client, version, what)

    def record(self, session: AsyncSession) -> None:
        """Add the event to the transaction."""
        actor, federation, client, version, what = self.key
        about = {"version": version, "what": what} | ({"client": client} if client else {})
        record_event(session, "model.read", federation_id=federation, actor=actor, **about)


class ModelReads:
    """The reads of the last minute, which are in the audit log."""

    def __init__(self) -> None:
        self._noted: OrderedDict[object, float] = OrderedDict()

    async def audit(self, database: Database, read: ModelRead) -> None:
        """Write the read down unless it was a moment ago. Raises DatabaseUnavailableError: then nothing may be read."""
        if not self.is_new(read):
            return
        async with database.transaction() as session:
            read.record(session)
        self.note(read)

    def is_new(self, read: ModelRead) -> bool:
        """Whether the audit log lacks it."""
        at = self._noted.get(read.key)
        return at is None or monotonic() - at > _AGAIN_SECONDS

    def note(self, read: ModelRead) -> None:
        """It was written, and committed."""
        self._noted[read.key] = monotonic()
        self._noted.move_to_end(read.key)
        while len(self._noted) > _MOST:
            self._noted.popitem(last=False)
