"""One look for all clients that wait: has a round begun or ended to collect, did a credential end?

Wake-ups say so at once. This look finds what a lost one would have said, at the cost of two statements every few
seconds, however many clients wait.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field

from sqlalchemy import case, func, select

from fedafd.aggregator.context import Context
from fedafd.domain.errors import DatabaseUnavailableError
from fedafd.domain.states import RoundState
from fedafd.messaging.wakeups import Change
from fedafd.persistence.models import ClientRow, RoundRow
from fedafd.telemetry.logging import get_logger

__all__ = ["watch_rounds"]

_log = get_logger(__name__)
_COLLECTING = (
    select(RoundRow.federation_id, RoundRow.id)
    .where(RoundRow.state == RoundState.COLLECTING.value)
    .order_by(RoundRow.id)
)
_VOID = ClientRow.enrolled_at.is_(None) & ClientRow.last_seen_at.is_not(None)
_ENDED = select(
    ClientRow.federation_id, func.sum(case((ClientRow.revoked_at.is_not(None) | _VOID, 1), else_=0))
).group_by(ClientRow.federation_id)
"""Making a statement costs more than what the database does for it."""


async def watch_rounds(context: Context, seconds: float = 2.0) -> None:
    """Look again and again, and wake the clients of a federation where something changed; ends when cancelled."""
    known: dict[str, _Facts] = await _seen(context) or {}
    while True:
        await asyncio.sleep(seconds)
        now = await _seen(context)
        if now is None:
            continue
        for federation in known.keys() | now.keys():
            if known.get(federation) != now.get(federation):
                context.wakeups.heard(Change(federation, rounds=False))
        known = now
        context.callers.watched([federation for federation, facts in now.items() if facts.collecting])


@dataclass
class _Facts:
    """What the tasks of a federation's clients depend on."""

    collecting: list[str] = field(default_factory=list)
    ended: int = 0
    """Clients whose credential was revoked, or voided by a new invitation."""


async def _seen(context: Context) -> dict[str, _Facts] | None:
    """The facts of each federation that has a client or a round; None while the database is away."""
    facts: defaultdict[str, _Facts] = defaultdict(_Facts)
    try:
        async with context.database.snapshot() as session:
            for federation, round_id in await session.execute(_COLLECTING):
                facts[federation].collecting.append(round_id)
            for federation, count in await session.execute(_ENDED):
                facts[federation].ended = count
    except DatabaseUnavailableError as error:
        _log.debug("round_watch.database_away", reason=str(error))
        return None
    return dict(facts)
