"""The audit log.

Readers go on from the last id that they saw, so ids must grow in the order in which events become visible. A sequence
alone does not promise that: a transaction may take a number and commit after a later one. Therefore recorded events
are written last in their transaction, under a lock that is held for the commit only (SQLite has one writer anyway).
Under the same lock they are chained by their hashes. The head is logged after the commit: whoever keeps the logs
elsewhere has the anchors that show what was changed later, and what was cut off.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any, cast

from sqlalchemy import Table, func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from fedafd.persistence.audit_chaining import chain_events
from fedafd.persistence.caller_address import caller_address
from fedafd.persistence.models import EventRow, RoundRow
from fedafd.telemetry.logging import get_logger, is_configured

__all__ = [
    "events_after",
    "forget_head",
    "last_event_id",
    "log_head",
    "newest_events",
    "record_event",
    "round_changes",
    "write_recorded_events",
]

_INSERT = insert(cast("Table", EventRow.__table__))
_PENDING = "recorded_events"
_HEAD = "audit_head"
_OWN_ACCORD = frozenset({"coordinator"})
"""Actors that nobody asked, though an RPC may have been the occasion."""
_log = get_logger(__name__)
_CLOCKS = timedelta(minutes=1)
"""An event is dated a moment after what it tells of."""
_NUMBERED = EventRow.id > 0
"""A row below was put in past this program, where verifying the log does not see it; nothing else shows it either."""
_LOCK = 0x6576656E7473
"""Any constant of our own: the number of the advisory lock."""


def record_event(session: AsyncSession, kind: str, *, federation_id: str | None, actor: str, **data: Any) -> None:
    """Add an event to the transaction that makes it true. `kind` is dotted: `client.enrolled`.

    It tells from where the actor asked, as far as one asked (`caller_address`).
    """
    address = None if actor in _OWN_ACCORD else caller_address()
    row = {"kind": kind, "federation_id": federation_id, "actor": actor, "address": address, "data": data}
    session.sync_session.info.setdefault(_PENDING, []).append(row)


def write_recorded_events(session: Session) -> None:
    """Write what `record_event` collected; called just before the commit."""
    if session.in_nested_transaction():
        return
    rows = session.info.pop(_PENDING, [])
    if rows:
        if session.get_bind().dialect.name == "postgresql":
            session.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        session.flush()  # what entries refer to comes first
        connection = session.connection()
        connection.execute(_INSERT, rows)  # one after the other, in the order of recording: so are their ids
        session.info[_HEAD] = chain_events(connection)


def log_head(session: Session) -> None:
    """Log up to where the audit log goes now; called just after the commit. Services log, commands do not."""
    head = session.info.pop(_HEAD, None)
    if head is not None and is_configured():
        _log.info("audit.head", anchor=str(head))


def forget_head(session: Session) -> None:
    """Of a commit that failed nothing is logged; called after a rollback."""
    session.info.pop(_HEAD, None)


async def events_after(
    session: AsyncSession, federation_id: str | None, after_id: int, limit: int = 100
) -> Sequence[EventRow]:
    """Events with an id above `after_id`, oldest first; of one federation, or for None all there are."""
    query = select(EventRow).where(EventRow.id > after_id)
    if federation_id is not None:
        query = query.where(EventRow.federation_id == federation_id)
    return (await session.scalars(query.order_by(EventRow.id).limit(limit))).all()


async def newest_events(
    session: AsyncSession, federation_id: str, before_id: int | None, limit: int
) -> Sequence[EventRow]:
    """A federation's events with an id below `before_id`, newest first; for None the newest of all."""
    query = select(EventRow).where(EventRow.federation_id == federation_id, _NUMBERED)
    if before_id is not None:
        query = query.where(EventRow.id < before_id)
    return (await session.scalars(query.order_by(EventRow.id.desc()).limit(limit))).all()


async def round_changes(session: AsyncSession, row: RoundRow) -> Sequence[EventRow]:
    """The events of a round's changes of state, oldest first."""
    query = select(EventRow).where(
        EventRow.federation_id == row.federation_id,
        EventRow.kind == "round.state_changed",
        _NUMBERED,
        EventRow.at >= row.created_at,
    )
    if row.finished_at is not None:
        query = query.where(EventRow.at <= row.finished_at + _CLOCKS)
    events = await session.scalars(query.order_by(EventRow.id))
    return [event for event in events if event.data.get("round") == row.number]


async def last_event_id(session: AsyncSession, only: Collection[str] | None = None) -> int:
    """Id of the newest event of these federations, for None of all there are; 0 if there is none."""
    query = select(func.max(EventRow.id))
    if only is not None:
        query = query.where(EventRow.federation_id.in_(only))
    return await session.scalar(query) or 0
