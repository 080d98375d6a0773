"""Shows finished rounds to the operator's trackers, from the rows: nothing of a round waits for it.

Only the aggregator that coordinates does. It shows all rounds again when it begins, and a tracker takes what it lacks,
so that neither a restart nor another aggregator leaves a gap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import select

from fedafd.aggregator.context import Context
from fedafd.aggregator.coordinator import Coordinator
from fedafd.aggregator.round_points import round_points, sed_weights
from fedafd.domain.states import ROUND_TRANSITIONS
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.models import RoundRow
from fedafd.persistence.round_repository import get_round
from fedafd.telemetry.logging import get_logger
from fedafd.tracking.run import TrackedRun
from fedafd.tracking.trackers import Trackers

__all__ = ["RoundTracking", "track_rounds"]

_OVER = [state.value for state, targets in ROUND_TRANSITIONS.items() if not targets]
_MOST_ROUNDS = 1000
"""The most rounds of a federation that are shown: the latest."""
_MOST_WEIGHED = 20
"""The most new rounds in one look whose clients' weights are worked out: the latest."""
_CLOSE_SECONDS = 5.0
_log = get_logger(__name__)


class RoundTracking:
    """Of all federations, one tracked run each."""

    def __init__(self, context: Context, options: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
        self._context, self._options, self._folder = context, options, folder
        self._trackers: dict[str, Trackers] = {}
        self._shown: dict[str, dict[int, dict[str, float]]] = {}

    async def look(self) -> None:
        """Show what is new. Raises what the database raises."""
        query = select(RoundRow.federation_id, RoundRow.number, RoundRow.id).where(RoundRow.state.in_(_OVER))
        async with self._context.database.snapshot() as session:
            rows = (await session.execute(query.order_by(RoundRow.federation_id, RoundRow.number))).all()
        over: dict[str, dict[int, str]] = {}
        for federation, number, round_id in rows:
            over.setdefault(federation, {})[number] = round_id
        for federation, rounds in over.items():
            latest = dict(list(rounds.items())[-_MOST_ROUNDS:])
            shown = self._shown.setdefault(federation, {})
            new = [number for number in latest if number not in shown]
            for number in new:
                shown[number] = await self._points(latest[number], weigh=number in new[-_MOST_WEIGHED:])
            if new:
                for number in shown.keys() - latest.keys():
                    del shown[number]
                (await self._of(federation)).show(shown)

    async def close(self) -> None:
        """End the trackers; another aggregator may coordinate now."""
        trackers, self._trackers, self._shown = list(self._trackers.values()), {}, {}
        await asyncio.gather(*(asyncio.to_thread(tracker.close) for tracker in trackers))

    async def _points(self, round_id: str, *, weigh: bool) -> dict[str, float]:
        async with self._context.database.snapshot() as session:
            points, folds = await round_points(session, await get_round(session, round_id))
        if not weigh:
            return points
        try:
            return points | await asyncio.to_thread(sed_weights, self._context.store, folds)
        except Exception as error:
            # Of an old round the states may be gone; all else is told.
            _log.info("round_tracking.no_weights", round_id=round_id, reason=str(error))
            return points

    async def _of(self, federation_id: str) -> Trackers:
        if federation_id not in self._trackers:
            async with self._context.database.snapshot() as session:
                created = (await get_federation(session, federation_id)).created_at
            run = TrackedRun(
                name=federation_id,
                id=f"federation/{federation_id}/{created.isoformat()}",
                tags={"federation": federation_id},
                output=self._folder,
            )
            self._trackers[federation_id] = Trackers(self._options, run, _tell, close_seconds=_CLOSE_SECONDS)
        return self._trackers[federation_id]


async def track_rounds(tracking: RoundTracking, coordinator: Coordinator, seconds: float = 2.0) -> None:
    """Look again and again while this aggregator coordinates; ends when cancelled."""
    try:
        while True:
            try:
                if coordinator.leading:
                    await tracking.look()
                else:
                    await tracking.close()
            except Exception as error:
                # The database may be away for a while; the next look shows what this one did not.
                _log.warning("round_tracking.failed", reason=str(error))
            await asyncio.sleep(seconds)
    finally:
        await asyncio.shield(tracking.close())


def _tell(line: str) -> None:
    _log.warning("round_tracking.tracker_failed", reason=line)
