"""Making, rotating and revoking API keys, for REST and the dashboard."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.control_plane.api_keys.schemas import CreateApiKey, CreatedApiKey
from fedafd.control_plane.callers import Caller
from fedafd.domain.errors import ConflictError
from fedafd.persistence.api_key_repository import create_key, get_key, revoke_key, rotate_key
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.models import ApiKeyRow, utc_now

__all__ = ["create", "expiry", "revoke", "rotate"]


def expiry(days: int | None) -> datetime | None:
    """When a secret of today expires; None for never."""
    return utc_now() + timedelta(days=days) if days else None


async def create(session: AsyncSession, wanted: CreateApiKey, actor: str) -> CreatedApiKey:
    """Make a key. Raises ConflictError for a name that was ever used, NotFoundError for a federation that is not there.

    A federation that is made later under a name of before is not opened by a key of before.
    """
    for name in wanted.federations or ():
        await get_federation(session, name, lock=True)
    row, secret = await create_key(
        session,
        wanted.name,
        wanted.role,
        created_by=actor,
        expires_at=expiry(wanted.expires_in_days),
        federations=wanted.federations,
    )
    about = {"name": row.name, "role": row.role, "federations": row.federations}
    record_event(session, "api_key.created", federation_id=None, actor=actor, **about)
    return CreatedApiKey.created(row, secret)


async def rotate(
    session: AsyncSession, row: ApiKeyRow, caller: Caller, expires_at: datetime | None, overlap: timedelta
) -> CreatedApiKey:
    """Give the key another secret; the old one is good for the overlap.

    Raises ConflictError for a key that takes none, and for the caller's own without an overlap.
    """
    if row.id == caller.id and not overlap:
        raise ConflictError(
            f"API key {row.name}: is the one that you call with; rotate it with an overlap, or with another admin's key"
        )
    secret = await rotate_key(session, row, expires_at, overlap)
    until = row.previous_until.isoformat() if row.previous_until else None
    about = {"name": row.name, "previous_secret_until": until}
    record_event(session, "api_key.rotated", federation_id=None, actor=caller.actor, **about)
    return CreatedApiKey.created(row, secret)


async def revoke(session: AsyncSession, name: str, actor: str) -> ApiKeyRow:
    """Refuse a key from now on. Raises NotFoundError, and ConflictError for the last admin's."""
    row = await get_key(session, name)
    await revoke_key(session, row)
    record_event(session, "api_key.revoked", federation_id=None, actor=actor, name=row.name)
    return row
