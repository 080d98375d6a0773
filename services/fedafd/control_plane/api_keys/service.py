"""Rotating API keys, for REST and the dashboard."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.control_plane.api_keys.schemas import CreatedApiKey
from fedafd.control_plane.callers import Caller
from fedafd.domain.errors import ConflictError
from fedafd.persistence.api_key_repository import rotate_key
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.models import ApiKeyRow

__all__ = ["rotate"]


async def rotate(session: AsyncSession, row: ApiKeyRow, caller: Caller, expires_at: datetime | None) -> CreatedApiKey:
    """Give the key another secret. Raises ConflictError for a key that takes none, and for the caller's own."""
    if row.id == caller.id:
        raise ConflictError(f"API key {row.name}: is the one that you call with; rotate it with another admin's key")
    secret = await rotate_key(session, row, expires_at)
    record_event(session, "api_key.rotated", federation_id=None, actor=caller.actor, name=row.name)
    return CreatedApiKey.created(row, secret)
