"""Keys of the REST API."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.domain.errors import ConflictError, NotFoundError
from fedafd.domain.kinds import Role
from fedafd.domain.secrets import SecretKind, hash_secret, new_secret
from fedafd.persistence.models import ApiKeyRow, utc_now

__all__ = [
    "FIRST_ADMIN",
    "active_key",
    "create_key",
    "ensure_admin_key",
    "get_key",
    "key_by_secret",
    "list_keys",
    "note_used",
    "revoke_key",
    "rotate_key",
]

FIRST_ADMIN = "admin"
"""Name of the key that the settings give."""


async def key_by_secret(session: AsyncSession, secret: str) -> ApiKeyRow | None:
    """The key's row, or None for one that is unknown, revoked or expired."""
    query = select(ApiKeyRow).where(ApiKeyRow.key_hash == hash_secret(secret), *_active())
    return await session.scalar(query)


async def active_key(session: AsyncSession, key_id: str) -> ApiKeyRow | None:
    """The key's row, or None for one that is unknown, revoked or expired."""
    return await session.scalar(select(ApiKeyRow).where(ApiKeyRow.id == key_id, *_active()))


async def note_used(session: AsyncSession, key_id: str, at: datetime) -> None:
    """Remember when the key was used; another replica may know of a later time."""
    earlier = or_(ApiKeyRow.last_used_at.is_(None), ApiKeyRow.last_used_at < at)
    await session.execute(update(ApiKeyRow).where(ApiKeyRow.id == key_id, earlier).values(last_used_at=at))


async def create_key(
    session: AsyncSession, name: str, role: Role, *, created_by: str, expires_at: datetime | None = None
) -> tuple[ApiKeyRow, str]:
    """A new key and its secret, which is shown here only. Raises ConflictError for a name that was ever used."""
    if await session.scalar(select(ApiKeyRow.id).where(ApiKeyRow.name == name)) is not None:
        raise ConflictError(f"API key {name}: the name is taken, revoked keys keep theirs; choose another", name=name)
    secret = new_secret(SecretKind.API_KEY)
    row = ApiKeyRow(
        name=name, role=role.value, key_hash=hash_secret(secret), created_by=created_by, expires_at=expires_at
    )
    session.add(row)
    await session.flush()
    return row, secret


async def get_key(session: AsyncSession, name: str) -> ApiKeyRow:
    """A key by name. Raises NotFoundError."""
    row = await session.scalar(select(ApiKeyRow).where(ApiKeyRow.name == name))
    if row is None:
        raise NotFoundError(f"API key {name}: does not exist", name=name)
    return row


async def list_keys(session: AsyncSession, after: str, limit: int) -> Sequence[ApiKeyRow]:
    """Keys whose name sorts after `after`, by name, revoked ones too."""
    query = select(ApiKeyRow).where(ApiKeyRow.name > after).order_by(ApiKeyRow.name).limit(limit)
    return (await session.scalars(query)).all()


async def revoke_key(session: AsyncSession, row: ApiKeyRow) -> None:
    """Refuse the key from now on. Raises ConflictError for the last admin's, and for one that was revoked before."""
    if row.revoked_at is not None:
        raise ConflictError(f"API key {row.name}: was revoked before", name=row.name)
    # Locked in one order, so that two admins cannot revoke each other at the same moment.
    admins = select(ApiKeyRow.id).where(ApiKeyRow.role == Role.ADMIN.value, *_active()).order_by(ApiKeyRow.id)
    others = [key_id for key_id in await session.scalars(admins.with_for_update()) if key_id != row.id]
    if row.role == Role.ADMIN.value and not others:
        raise ConflictError(f"API key {row.name}: is the last admin's; create another admin's key first", name=row.name)
    row.revoked_at = utc_now()
    await session.flush()


async def rotate_key(session: AsyncSession, row: ApiKeyRow, expires_at: datetime | None) -> str:
    """A new secret for the key, which is shown here only; the old one is refused from now on.

    Raises ConflictError for a key that was revoked, and for the one that the settings give.
    """
    if row.revoked_at is not None:
        raise ConflictError(f"API key {row.name}: was revoked; create another", name=row.name)
    if row.created_by is None:
        words = "comes from FEDAFD_CONTROL_PLANE_ADMIN_KEY; change that and start the control plane again"
        raise ConflictError(f"API key {row.name}: {words}", name=row.name)
    secret = new_secret(SecretKind.API_KEY)
    row.key_hash, row.expires_at, row.last_used_at = hash_secret(secret), expires_at, None
    await session.flush()
    return secret


async def ensure_admin_key(session: AsyncSession, secret: str) -> None:
    """Make `secret` the key named `admin`. A new secret replaces the old one; one that was revoked stays revoked."""
    query = select(ApiKeyRow).where(ApiKeyRow.name == FIRST_ADMIN).with_for_update()
    row = await session.scalar(query)
    if row is None:
        # Replicas that start together on an empty database all come here; one of them wins.
        with suppress(IntegrityError):
            async with session.begin_nested():
                session.add(ApiKeyRow(name=FIRST_ADMIN, role=Role.ADMIN.value, key_hash=hash_secret(secret)))
        row = await session.scalar(query)
    if row is not None and row.key_hash != hash_secret(secret):
        row.key_hash, row.revoked_at = hash_secret(secret), None
    await session.flush()


def _active() -> tuple[ColumnElement[bool], ...]:
    return ApiKeyRow.revoked_at.is_(None), or_(ApiKeyRow.expires_at.is_(None), ApiKeyRow.expires_at > utc_now())
