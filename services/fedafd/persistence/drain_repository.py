"""Drain mode of the whole service: running rounds run to their end, queued ones wait."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.persistence.event_repository import record_event
from fedafd.persistence.lease_repository import COORDINATOR_LEASE
from fedafd.persistence.models import DrainRow, LeaseRow

__all__ = ["end_drain", "get_drain", "may_start_rounds", "start_drain"]

_ONLY = 1


async def get_drain(session: AsyncSession) -> DrainRow | None:
    """Since when and by whom rounds are held; None if they are not."""
    return await session.scalar(select(DrainRow).where(DrainRow.id == _ONLY))


async def start_drain(session: AsyncSession, actor: str, reason: str | None) -> DrainRow:
    """Hold queued rounds from here on; repeating it changes nothing.

    What the session reads of rounds afterwards is final: no queued round starts after that.
    """
    await _take_turn(session)
    row = await get_drain(session)
    if row is None:
        row = DrainRow(id=_ONLY, actor=actor, reason=reason)
        session.add(row)
        record_event(session, "service.drained", federation_id=None, actor=actor, reason=reason)
        await session.flush()
    return row


async def may_start_rounds(session: AsyncSession) -> bool:
    """Whether a queued round may start in this transaction; a drain that begins meanwhile waits for its end."""
    await _take_turn(session)
    return await get_drain(session) is None


async def end_drain(session: AsyncSession, actor: str) -> None:
    """Let queued rounds start again; harmless when they are not held."""
    row = await get_drain(session)
    if row is not None:
        await session.delete(row)
        record_event(session, "service.resumed", federation_id=None, actor=actor)
        await session.flush()


async def _take_turn(session: AsyncSession) -> None:
    """Let one transaction at a time begin a drain or start a round: without it a round could start just after the one
    that drained saw none running. SQLite's transactions take turns anyway."""
    await session.execute(select(LeaseRow.name).where(LeaseRow.name == COORDINATOR_LEASE).with_for_update())
