"""A glance at a round: what its stages and parts add up to, counted by the database, without a row of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import bindparam, case, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.persistence.models import ClientRow, ParticipationRow, StageRow

__all__ = ["Parts", "RoundGlance", "Stages", "glance_at_round"]

_STAGES = (
    select(
        StageRow.kind,
        StageRow.modality,
        StageRow.state,
        func.count(),
        func.min(StageRow.last_progress_at, type_=StageRow.last_progress_at.type),
        func.min(StageRow.alive_at, type_=StageRow.alive_at.type),
    )
    .where(StageRow.round_id == bindparam("round_id"))
    .group_by(StageRow.kind, StageRow.modality, StageRow.state)
)
_PARTS = (
    select(
        ParticipationRow.state,
        func.count(),
        func.min(ParticipationRow.last_progress_at, type_=ParticipationRow.last_progress_at.type),
        func.max(case((ClientRow.revoked_at.is_not(None), 1), else_=0)),
    )
    .join(ClientRow, ParticipationRow.client_id == ClientRow.id)
    .where(ParticipationRow.round_id == bindparam("round_id"))
    .group_by(ParticipationRow.state)
)


@dataclass(frozen=True)
class Stages:
    """Stages of one kind, modality and state."""

    count: int
    stepped_at: datetime
    """When the one that was still for longest was announced, claimed, or made a step."""
    alive_at: datetime
    """When the one that was silent for longest was heard of."""


@dataclass(frozen=True)
class Parts:
    """Participations in one state."""

    count: int
    stepped_at: datetime
    """When the one that was still for longest made a step."""
    any_revoked: bool
    """Whether a client of theirs is revoked."""


@dataclass(frozen=True)
class RoundGlance:
    """A round at one moment."""

    stages: Mapping[tuple[str, str, str], Stages]
    """By kind, modality and state."""
    parts: Mapping[str, Parts]
    """By state."""

    def num_stages(self, *states: str) -> int:
        """How many stages are in one of these states."""
        return sum(group.count for (_, _, state), group in self.stages.items() if state in states)

    def num_parts(self, *states: str) -> int:
        """How many participations are in one of these states."""
        return sum(group.count for state, group in self.parts.items() if state in states)


async def glance_at_round(session: AsyncSession, round_id: str) -> RoundGlance:
    """Two statements and some twenty rows, however many clients there are."""
    stages = await session.execute(_STAGES, {"round_id": round_id})
    parts = await session.execute(_PARTS, {"round_id": round_id})
    return RoundGlance(
        stages={
            (kind, modality, state): Stages(count, stepped_at, alive_at)
            for kind, modality, state, count, stepped_at, alive_at in stages.all()
        },
        parts={state: Parts(count, at, bool(revoked)) for state, count, at, revoked in parts.all()},
    )
