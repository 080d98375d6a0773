"""Drain mode of the whole service: running rounds run to their end, queued ones wait."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.persistence.event_repository import record_event
from fedafd.persistence.models import DrainRow

__all__ = ["end_drain", "get_drain", "start_drain"]

_ONLY = 1


async def get_drain(session: AsyncSession) -> DrainRow | None:
    """Since when and by whom rounds are held; None if they are not."""
    return await session.scalar(select(DrainRow).where(DrainRow.id == _ONLY))


async def start_drain(session: AsyncSession, actor: str, reason: str | None) -> DrainRow:
    """Hold queued rounds from here on; repeating it changes nothing."""
    row = await get_drain(session)
    if row is None:
        row = DrainRow(id=_ONLY, actor=actor, reason=reason)
        session.add(row)
        record_event(session, "service.drained", federation_id=None, actor=actor, reason=reason)
        await session.flush()
    return row


async def end_drain(session: AsyncSession, actor: str) -> None:
    """Let queued rounds start again; harmless when they are not held."""
    row = await get_drain(session)
    if row is not None:
        await session.delete(row)
        record_event(session, "service.resumed", federation_id=None, actor=actor)
        await session.flush()
