"""Logins to the dashboard that were ended before their time: a copy of their cookie is worth nothing at any replica."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.persistence.models import EndedLoginRow, utc_now

__all__ = ["end_login", "forget_ended_logins", "has_ended"]


async def end_login(session: AsyncSession, nonce: str, expires_at: datetime) -> None:
    """End a login whose cookie would be good until `expires_at`. Ending it again changes nothing."""
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    values = {"nonce": nonce, "expires_at": expires_at}
    await session.execute(dialect.insert(EndedLoginRow).values(values).on_conflict_do_nothing())


async def has_ended(session: AsyncSession, nonce: str) -> bool:
    """Whether that login was ended."""
    return await session.scalar(select(EndedLoginRow.nonce).where(EndedLoginRow.nonce == nonce)) is not None


async def forget_ended_logins(session: AsyncSession) -> None:
    """Remove those whose cookies are over by themselves."""
    await session.execute(delete(EndedLoginRow).where(EndedLoginRow.expires_at < utc_now()))
