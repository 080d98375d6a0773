"""Leases: who may do a singleton's work, with a fencing token that grows with every new holder."""

from __future__ import annotations

from datetime import timedelta
from typing import cast

from sqlalchemy import Table, bindparam, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.persistence.models import LeaseRow, utc_now

__all__ = ["COORDINATOR_LEASE", "acquire_lease", "release_lease"]

COORDINATOR_LEASE = "coordinator"
"""Its holder moves rounds."""


_LEASES = cast("Table", LeaseRow.__table__)
_LEASE_OF = select(_LEASES.c.holder, _LEASES.c.token).where(_LEASES.c.name == bindparam("called")).with_for_update()
_TAKE = (
    update(_LEASES)
    .where(
        _LEASES.c.name == bindparam("called"),
        _LEASES.c.token == bindparam("expected_token"),
        or_(_LEASES.c.holder == bindparam("by"), _LEASES.c.expires_at < bindparam("now")),
    )
    .values(holder=bindparam("by"), token=bindparam("next"), expires_at=bindparam("until"))
)


async def acquire_lease(session: AsyncSession, name: str, holder: str, lifetime: timedelta) -> int | None:
    """Take or renew the lease; its fencing token, or None while somebody else holds it.

    Renewing keeps the token; a new holder gets a higher one, so that what the old one still does can be refused.
    """
    now, connection = utc_now(), await session.connection()
    row = (await connection.execute(_LEASE_OF, {"called": name})).one_or_none()
    if row is None:
        try:
            async with session.begin_nested():
                session.add(LeaseRow(name=name, holder=holder, token=1, expires_at=now + lifetime))
        except IntegrityError:
            return None
        return 1
    token = row.token if row.holder == holder else row.token + 1
    values = {
        "called": name,
        "expected_token": row.token,
        "now": now,
        "by": holder,
        "next": token,
        "until": now + lifetime,
    }
    taken = await connection.execute(_TAKE, values)
    return token if taken.rowcount == 1 else None


async def release_lease(session: AsyncSession, name: str, holder: str) -> None:
    """Let the lease go at once, so that another may take it without waiting."""
    mine = update(LeaseRow).where(LeaseRow.name == name, LeaseRow.holder == holder)
    await session.execute(mine.values(expires_at=utc_now()))
