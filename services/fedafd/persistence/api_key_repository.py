"""Keys of the REST API, and remembered answers of repeated requests."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.domain.secrets import hash_secret
from fedafd.persistence.models import ApiKeyRow

__all__ = ["ensure_admin_key", "key_by_secret"]

_FIRST_ADMIN = "admin"


async def key_by_secret(session: AsyncSession, secret: str) -> ApiKeyRow | None:
    """The key's row, or None for one that is unknown or revoked."""
    query = select(ApiKeyRow).where(ApiKeyRow.key_hash == hash_secret(secret), ApiKeyRow.revoked_at.is_(None))
    return await session.scalar(query)


async def ensure_admin_key(session: AsyncSession, secret: str) -> None:
    """Make `secret` the key named `admin`, replacing an older one of that name."""
    row = await session.scalar(select(ApiKeyRow).where(ApiKeyRow.name == _FIRST_ADMIN))
    if row is None:
        session.add(ApiKeyRow(name=_FIRST_ADMIN, role="admin", key_hash=hash_secret(secret)))
    else:
        row.key_hash = hash_secret(secret)
    await session.flush()
