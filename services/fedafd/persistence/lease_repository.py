"""Leases: who may do a singleton's work, with a fencing token that grows with every new holder."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import or_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.persistence.database import affected_rows
from fedafd.persistence.models import LeaseRow, utc_now

__all__ = ["COORDINATOR_LEASE", "acquire_lease", "release_lease"]

COORDINATOR_LEASE = "coordinator"
"""Its holder moves rounds."""


async def acquire_lease(session: AsyncSession, name: str, holder: str, lifetime: timedelta) -> int | None:
    """Take or renew the lease; its fencing token, or None while somebody else holds it.

    Renewing keeps the token; a new holder gets a higher one, so that what the old one still does can be refused.
    """
    now = utc_now()
    row = await session.get(LeaseRow, name, with_for_update=True)
    if row is None:
        try:
            async with session.begin_nested():
                session.add(LeaseRow(name=name, holder=holder, token=1, expires_at=now + lifetime))
        except IntegrityError:
            return None
        return 1
    token = row.token if row.holder == holder else row.token + 1
    free = or_(LeaseRow.holder == holder, LeaseRow.expires_at < now)
    guarded = update(LeaseRow).where(LeaseRow.name == name, LeaseRow.token == row.token, free)
    taken = await affected_rows(session, guarded.values(holder=holder, token=token, expires_at=now + lifetime))
    return token if taken == 1 else None


async def release_lease(session: AsyncSession, name: str, holder: str) -> None:
    """Let the lease go at once, so that another may take it without waiting."""
    mine = update(LeaseRow).where(LeaseRow.name == name, LeaseRow.holder == holder)
    await session.execute(mine.values(expires_at=utc_now()))
