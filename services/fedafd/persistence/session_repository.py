"""Sessions: which process is a client's one live agent. Each change is one guarded UPDATE, so replicas agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import Table, bindparam, case, or_, update
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.persistence.database import affected_rows
from fedafd.persistence.models import ClientRow

__all__ = ["end_session", "hold_session", "note_refused_agent", "renew_sessions"]

_TELL_AGAIN_AFTER = timedelta(minutes=10)


async def hold_session(
    session: AsyncSession, client_id: str, own: str, ended: Sequence[str], now: datetime, until: datetime
) -> bool:
    """Make `own` the client's session until then, and note that the client called; False while another one is alive.

    `ended` are sessions that the caller knows to be over.
    """
    free = or_(ClientRow.session.is_(None), ClientRow.session.in_([own, *ended]), ClientRow.session_until < now)
    values = {
        "session": own,
        "session_until": until,
        "last_seen_at": now,
        "other_agent_refused_at": case((ClientRow.session == own, ClientRow.other_agent_refused_at), else_=None),
    }
    changed = update(ClientRow).where(ClientRow.id == client_id, free).values(**values)
    return await affected_rows(session, changed) == 1


async def renew_sessions(session: AsyncSession, rows: Sequence[Mapping[str, Any]]) -> None:
    """Extend sessions, many at once, and note that their clients called; one that is over stays so.

    Each row has the `client`'s id, its `own` session, `now` and `until`.
    """
    table = cast("Table", ClientRow.__table__)
    statement = update(table).where(table.c.id == bindparam("client"), table.c.session == bindparam("own"))
    at = table.c.session_until.type
    extended = statement.values(session_until=bindparam("until", type_=at), last_seen_at=bindparam("now", type_=at))
    await (await session.connection()).execute(extended, [dict(row) for row in rows])


async def note_refused_agent(session: AsyncSession, client_id: str, now: datetime) -> bool:
    """Remember that another agent was refused; False if that was noted not long ago."""
    before = ClientRow.other_agent_refused_at
    news = or_(before.is_(None), before < now - _TELL_AGAIN_AFTER)
    noted = update(ClientRow).where(ClientRow.id == client_id, news).values(other_agent_refused_at=now)
    return await affected_rows(session, noted) == 1


async def end_session(session: AsyncSession, client_id: str, own: str) -> None:
    """The client's agent ends: if `own` is its session, any other may begin at once."""
    statement = update(ClientRow).where(ClientRow.id == client_id, ClientRow.session == own)
    await session.execute(statement.values(session=None, session_until=None))
