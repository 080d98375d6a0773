"""What rounds cost: bytes that sites moved, and when each round began to collect from them and was over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import case, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.domain.kinds import StageKind
from fedafd.domain.states import ParticipationState
from fedafd.persistence.models import ParticipationRow, RoundRow, StageRow

__all__ = ["RoundCost", "round_costs"]


@dataclass(frozen=True, kw_only=True)
class RoundCost:
    """One round that began and is over."""

    number: int
    state: str
    started_at: datetime
    collecting_at: datetime | None
    """When its sites could begin; None where it ended before."""
    finished_at: datetime
    invited: int
    delivered: int
    bytes_up: int
    bytes_down: int

    @property
    def seconds(self) -> float:
        """From its begin to its end."""
        return (self.finished_at - self.started_at).total_seconds()


async def round_costs(session: AsyncSession, federation_id: str, before: int | None, limit: int) -> Sequence[RoundCost]:
    """Of a federation's rounds that began and are over, below `before` (None: the newest), descending."""
    query = select(RoundRow.id, RoundRow.number, RoundRow.state, RoundRow.started_at, RoundRow.finished_at).where(
        RoundRow.federation_id == federation_id, RoundRow.started_at.is_not(None), RoundRow.finished_at.is_not(None)
    )
    if before is not None:
        query = query.where(RoundRow.number < before)
    rounds = (await session.execute(query.order_by(RoundRow.number.desc()).limit(limit))).all()
    ids = [row.id for row in rounds]
    prepared = select(StageRow.round_id, func.max(StageRow.finished_at)).where(
        StageRow.round_id.in_(ids), StageRow.kind == StageKind.PREPARE.value
    )
    ready = {key: at for key, at in (await session.execute(prepared.group_by(StageRow.round_id))).all()}
    delivered = case((ParticipationRow.state == ParticipationState.DELIVERED.value, 1), else_=0)
    moved = select(
        ParticipationRow.round_id,
        func.count(),
        func.sum(delivered),
        func.sum(ParticipationRow.bytes_up),
        func.sum(ParticipationRow.bytes_down),
    ).where(ParticipationRow.round_id.in_(ids))
    sums = {row[0]: row[1:] for row in (await session.execute(moved.group_by(ParticipationRow.round_id))).all()}
    costs = []
    for row in rounds:
        invited, arrived, up, down = (int(number) for number in sums.get(row.id, (0, 0, 0, 0)))
        costs.append(
            RoundCost(
                number=row.number,
                state=row.state,
                started_at=row.started_at,
                collecting_at=ready.get(row.id),
                finished_at=row.finished_at,
                invited=invited,
                delivered=arrived,
                bytes_up=up,
                bytes_down=down,
            )
        )
    return costs
