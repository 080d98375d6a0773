"""The audit log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.persistence.models import EventRow

__all__ = ["events_after", "record_event"]


def record_event(session: AsyncSession, kind: str, *, federation_id: str | None, actor: str, **data: Any) -> None:
    """Add an event to the transaction that makes it true. `kind` is dotted: `client.enrolled`."""
    session.add(EventRow(kind=kind, federation_id=federation_id, actor=actor, data=data))


async def events_after(
    session: AsyncSession, federation_id: str, after_id: int, limit: int = 100
) -> Sequence[EventRow]:
    """Events of one federation with an id above `after_id`, oldest first."""
    query = select(EventRow).where(EventRow.federation_id == federation_id, EventRow.id > after_id)
    return (await session.scalars(query.order_by(EventRow.id).limit(limit))).all()
