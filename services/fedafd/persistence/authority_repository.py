"""The federation server's authority: one row, made by whichever aggregator starts first."""

from __future__ import annotations

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.persistence.models import AuthorityRow

__all__ = ["find_authority", "keep_authority"]

_THE_ONLY = 1


async def find_authority(session: AsyncSession) -> AuthorityRow | None:
    """The authority, or None before an aggregator has started."""
    return await session.get(AuthorityRow, _THE_ONLY)


async def keep_authority(session: AsyncSession, certificate: str, wrapped_key: str | None) -> AuthorityRow:
    """Keep this authority if there is none yet; the one that is there after that, which may be another's."""
    row = AuthorityRow(id=_THE_ONLY, certificate=certificate, wrapped_key=wrapped_key)
    try:
        async with session.begin_nested():
            session.add(row)
    except IntegrityError:
        return await session.get_one(AuthorityRow, _THE_ONLY)
    return row
