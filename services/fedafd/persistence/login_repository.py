"""Logins to the dashboard: what all replicas sign their cookies with, and those that were ended before their time.

A copy of the cookie of one that was ended is worth nothing at any replica.
"""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.persistence.models import Base, EndedLoginRow, SessionSecretRow, utc_now

__all__ = ["end_login", "forget_ended_logins", "has_ended", "session_secret"]

_ONLY = 1


async def session_secret(session: AsyncSession) -> str:
    """A random secret, made by whichever replica asks first."""
    await _insert(session, SessionSecretRow, id=_ONLY, secret=secrets.token_hex(32))
    return (await session.scalars(select(SessionSecretRow.secret).where(SessionSecretRow.id == _ONLY))).one()


async def end_login(session: AsyncSession, nonce: str, expires_at: datetime) -> None:
    """End a login whose cookie would be good until `expires_at`. Ending it again changes nothing."""
    await _insert(session, EndedLoginRow, nonce=nonce, expires_at=expires_at)


async def has_ended(session: AsyncSession, nonce: str) -> bool:
    """Whether that login was ended."""
    return await session.scalar(select(EndedLoginRow.nonce).where(EndedLoginRow.nonce == nonce)) is not None


async def forget_ended_logins(session: AsyncSession) -> None:
    """Remove those whose cookies are over by themselves."""
    await session.execute(delete(EndedLoginRow).where(EndedLoginRow.expires_at < utc_now()))


async def _insert(session: AsyncSession, row: type[Base], **values: Any) -> None:
    """A row, unless it is there."""
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    await session.execute(dialect.insert(row).values(values).on_conflict_do_nothing())
