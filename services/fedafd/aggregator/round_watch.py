"""One look for all clients that wait: has a round begun or ended to collect, was a client revoked?

Wake-ups say so at once. This look finds what a lost one would have said, at the cost of two statements every few
seconds, however many clients wait.
"""

from __future__ import annotations

import asyncio

from sqlalchemy import func, select

from fedafd.aggregator.context import Context
from fedafd.domain.errors import DatabaseUnavailableError
from fedafd.domain.states import RoundState
from fedafd.messaging.wakeups import Change
from fedafd.persistence.models import ClientRow, RoundRow
from fedafd.telemetry.logging import get_logger

__all__ = ["watch_rounds"]

_log = get_logger(__name__)


async def watch_rounds(context: Context, seconds: float = 2.0) -> None:
    """Look again and again, and wake the clients of a federation where something changed; ends when cancelled."""
    known = await _seen(context) or {}
    while True:
        await asyncio.sleep(seconds)
        now = await _seen(context)
        if now is None:
            continue
        for federation in known.keys() | now.keys():
            if known.get(federation) != now.get(federation):
                context.wakeups.heard(Change(federation, rounds=False))
        known = now


async def _seen(context: Context) -> dict[str, list[str]] | None:
    """Of each federation what its clients' tasks depend on; None while the database is away."""
    collecting = select(RoundRow.federation_id, RoundRow.id).where(RoundRow.state == RoundState.COLLECTING.value)
    revoked = select(ClientRow.federation_id, func.count(ClientRow.revoked_at)).group_by(ClientRow.federation_id)
    found: dict[str, list[str]] = {}
    try:
        async with context.database.snapshot() as session:
            for query in (collecting.order_by(RoundRow.id), revoked):
                for federation, what in await session.execute(query):
                    found.setdefault(federation, []).append(str(what))
    except DatabaseUnavailableError as error:
        _log.debug("round_watch.database_away", reason=str(error))
        return None
    return found
