"""Whether a database takes writes: a row is written and taken back, so nothing of it stays."""

from __future__ import annotations

from fedafd.persistence.database import Database
from fedafd.persistence.models import EventRow

__all__ = ["check_writes"]


class _TakeBackError(Exception):
    """Ends the transaction without its row."""


async def check_writes(database: Database) -> None:
    """Raise DatabaseUnavailableError unless the database takes writes; it must be at this program's revision."""
    try:
        async with database.transaction() as session:
            session.add(EventRow(kind="doctor.look", actor="doctor", data={}))
            await session.flush()
            raise _TakeBackError
    except _TakeBackError:
        return
