"""Sessions that agents take or extend: those of the same moment in one transaction.

When a round of hundreds begins, or the aggregator was away for longer than a lease, the sessions of all have to be
written before their calls go on. One by one, each would wait for all before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from fedafd.aggregator.together import Guard, Together
from fedafd.persistence.database import Database
from fedafd.persistence.session_repository import hold_session

__all__ = ["Hold", "Holds"]

_MOST = 50
"""Sessions of one transaction."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Hold:
    """An agent that calls."""

    client_id: str
    own: str
    """Its session."""
    ended: tuple[str, ...]
    """Sessions of the client that it knows to be over."""
    now: datetime
    until: datetime


class Holds:
    """Makes each caller's session its client's, unless another one is alive."""

    def __init__(self, database: Database, guard: Guard) -> None:
        self._database = database
        self._together: Together[Hold, bool] = Together(self._hold_all, most=_MOST, guard=guard)

    async def take(self, hold: Hold) -> bool:
        """False while another session of the client is alive."""
        return await self._together.get(hold)

    async def _hold_all(self, holds: Sequence[Hold]) -> Mapping[Hold, bool | Exception]:
        async with self._database.transaction() as session:
            return {
                hold: await hold_session(session, hold.client_id, hold.own, hold.ended, hold.now, hold.until)
                for hold in holds
            }
