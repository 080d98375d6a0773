"""The outbox: messages to distillers, written in the transaction that decided them and sent after it.

The coordinator asks for what is unsent after each change, so that these statements are built once.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import BindParameter, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.persistence.models import OutboxRow, RoundRow, StageRow, utc_now

__all__ = ["mark_sent", "mark_taken", "rounds_of", "unsent_messages"]

_IDS: BindParameter[list[str | int]] = bindparam("ids", expanding=True)
_UNSENT = select(OutboxRow).where(OutboxRow.sent_at.is_(None)).order_by(OutboxRow.id).limit(bindparam("most"))
_ROUNDS = (
    select(StageRow.id, RoundRow.id, RoundRow.traceparent)
    .join(RoundRow, StageRow.round_id == RoundRow.id)
    .where(StageRow.id.in_(_IDS))
)
_SENT = update(OutboxRow).where(OutboxRow.id.in_(_IDS)).values(sent_at=bindparam("at"))
_TAKEN = (
    update(OutboxRow).where(OutboxRow.stage_id.in_(_IDS), OutboxRow.sent_at.is_(None)).values(sent_at=bindparam("at"))
)
_AS_IT_IS = {"synchronize_session": False}


async def unsent_messages(session: AsyncSession, limit: int = 100) -> Sequence[OutboxRow]:
    """Messages that have not left, oldest first."""
    return (await session.scalars(_UNSENT, {"most": limit})).all()


async def rounds_of(session: AsyncSession, stage_ids: Sequence[str]) -> dict[str, tuple[str, str | None]]:
    """Of each stage its round's id, and the trace that the round belongs to."""
    rows = await session.execute(_ROUNDS, {"ids": list(stage_ids)})
    return {stage_id: (round_id, traceparent) for stage_id, round_id, traceparent in rows}


async def mark_sent(session: AsyncSession, message_ids: Sequence[int]) -> None:
    """The messages left."""
    await session.execute(_SENT, {"ids": list(message_ids), "at": utc_now()}, execution_options=_AS_IT_IS)


async def mark_taken(session: AsyncSession, stage_ids: Sequence[str]) -> None:
    """Nobody has to be told of these stages any more: they are claimed."""
    await session.execute(_TAKEN, {"ids": list(stage_ids), "at": utc_now()}, execution_options=_AS_IT_IS)
