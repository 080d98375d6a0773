"""Keys of the REST API."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.domain.errors import ConflictError, NotFoundError
from fedafd.domain.kinds import Role
from fedafd.domain.secrets import SecretKind, hash_secret, new_secret
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.models import ApiKeyRow, utc_now

__all__ = [
    "FIRST_ADMIN",
    "active_key",
    "create_key",
    "ended_key",
    "ensure_admin_key",
    "forget_federation",
    "get_key",
    "key_by_secret",
    "list_keys",
    "note_used",
    "revoke_key",
    "rotate_key",
]

FIRST_ADMIN = "admin"
"""Name of the key that the settings give."""
_SETTINGS = "settings"
"""Who changes that key, in the audit log."""


async def key_by_secret(session: AsyncSession, secret: str) -> ApiKeyRow | None:
    """The key's row, or None for one that is unknown, revoked or expired."""
    digest = hash_secret(secret)
    previous = and_(ApiKeyRow.previous_hash == digest, ApiKeyRow.previous_until > utc_now())
    query = select(ApiKeyRow).where(or_(ApiKeyRow.key_hash == digest, previous), *_active())
    return await session.scalar(query)


async def ended_key(session: AsyncSession, secret: str) -> str | None:
    """Name of the key that this secret opened before the key was revoked, expired, or got another secret."""
    digest = hash_secret(secret)
    of_secret = or_(ApiKeyRow.key_hash == digest, ApiKeyRow.previous_hash == digest)
    return await session.scalar(select(ApiKeyRow.name).where(of_secret))


async def active_key(session: AsyncSession, key_id: str) -> ApiKeyRow | None:
    """The key's row, or None for one that is unknown, revoked or expired."""
    return await session.scalar(select(ApiKeyRow).where(ApiKeyRow.id == key_id, *_active()))


async def note_used(session: AsyncSession, key_id: str, secret_hash: str, at: datetime) -> None:
    """Remember when the key was used by that secret; another replica may know of a later time."""
    for secret, used in (
        (ApiKeyRow.key_hash, ApiKeyRow.last_used_at),
        (ApiKeyRow.previous_hash, ApiKeyRow.previous_used_at),
    ):
        earlier = or_(used.is_(None), used < at)
        statement = update(ApiKeyRow).where(ApiKeyRow.id == key_id, secret == secret_hash, earlier)
        await session.execute(statement.values({used: at}))


async def create_key(
    session: AsyncSession,
    name: str,
    role: Role,
    *,
    created_by: str,
    expires_at: datetime | None = None,
    federations: Sequence[str] | None = None,
) -> tuple[ApiKeyRow, str]:
    """A new key and its secret, which is shown here only; `federations` are those that it opens, None for all.

    Raises ConflictError for a name that was ever used.
    """
    if await session.scalar(select(ApiKeyRow.id).where(ApiKeyRow.name == name)) is not None:
        raise ConflictError(f"API key {name}: the name is taken, revoked keys keep theirs; choose another", name=name)
    secret = new_secret(SecretKind.API_KEY)
    row = ApiKeyRow(
        name=name,
        role=role.value,
        key_hash=hash_secret(secret),
        created_by=created_by,
        expires_at=expires_at,
        federations=None if federations is None else sorted(set(federations)),
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
    of_all = (ApiKeyRow.role == Role.ADMIN.value, ApiKeyRow.federations.is_(None))
    admins = select(ApiKeyRow.id).where(*of_all, *_active()).order_by(ApiKeyRow.id)
    others = [key_id for key_id in await session.scalars(admins.with_for_update()) if key_id != row.id]
    if row.role == Role.ADMIN.value and row.federations is None and not others:
        raise ConflictError(f"API key {row.name}: is the last admin's; create another admin's key first", name=row.name)
    row.revoked_at = utc_now()
    await session.flush()


async def rotate_key(
    session: AsyncSession, row: ApiKeyRow, expires_at: datetime | None, overlap: timedelta = timedelta()
) -> str:
    """A new secret for the key, which is shown here only; the old one is refused after `overlap`.

    The old one never outlives the time at which it would have expired, and one that was older still is refused at once.
    The row is locked, and read anew: of two that rotate the key at once, the second finds what the first has left.
    Raises ConflictError for a key that was revoked, and for the one that the settings give.
    """
    await session.refresh(row, with_for_update=True)
    if row.revoked_at is not None:
        raise ConflictError(f"API key {row.name}: was revoked; create another", name=row.name)
    if row.created_by is None:
        words = "comes from FEDAFD_CONTROL_PLANE_ADMIN_KEY; change that and start the control plane again"
        raise ConflictError(f"API key {row.name}: {words}", name=row.name)
    secret, until = new_secret(SecretKind.API_KEY), utc_now() + overlap
    row.previous_hash, row.previous_until, row.previous_used_at = None, None, None
    if overlap:
        row.previous_hash, row.previous_used_at = row.key_hash, row.last_used_at
        row.previous_until = until if row.expires_at is None else min(until, row.expires_at)
    row.key_hash, row.expires_at, row.last_used_at = hash_secret(secret), expires_at, None
    await session.flush()
    return secret


async def forget_federation(session: AsyncSession, name: str) -> None:
    """No key opens the federation by its name any more, because another may take that; keys for all of them do."""
    for row in await session.scalars(select(ApiKeyRow).where(ApiKeyRow.federations.is_not(None)).with_for_update()):
        if row.federations and name in row.federations:
            row.federations = [opened for opened in row.federations if opened != name]
    await session.flush()


async def ensure_admin_key(session: AsyncSession, secret: str) -> None:
    """Make `secret` the key named `admin`. A new secret replaces the old one; one that was revoked stays revoked.

    That another one took its place, and may have let a revoked key in again, stands in the audit log.
    """
    query = select(ApiKeyRow).where(ApiKeyRow.name == FIRST_ADMIN).with_for_update()
    row = await session.scalar(query)
    if row is None:
        # Replicas that start together on an empty database all come here; one of them wins.
        with suppress(IntegrityError):
            async with session.begin_nested():
                session.add(ApiKeyRow(name=FIRST_ADMIN, role=Role.ADMIN.value, key_hash=hash_secret(secret)))
        row = await session.scalar(query)
    if row is not None and row.key_hash != hash_secret(secret):
        about = {"name": FIRST_ADMIN, "previous_secret_until": None, "was_revoked": row.revoked_at is not None}
        record_event(session, "api_key.rotated", federation_id=None, actor=_SETTINGS, **about)
        row.key_hash, row.revoked_at = hash_secret(secret), None
    await session.flush()


def _active() -> tuple[ColumnElement[bool], ...]:
    return ApiKeyRow.revoked_at.is_(None), or_(ApiKeyRow.expires_at.is_(None), ApiKeyRow.expires_at > utc_now())
