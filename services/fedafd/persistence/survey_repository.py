"""What an operator wants counted: rounds, stages, clients, participations, model versions of all federations."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import case, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.domain.states import StageState
from fedafd.persistence.drain_repository import get_drain
from fedafd.persistence.models import (
    ClientRow,
    FederationRow,
    ModelVersionRow,
    OutboxRow,
    ParticipationRow,
    RoundRow,
    StageRow,
)

__all__ = ["Survey", "take_survey"]

_VERSIONS = 10
Counts = dict[tuple[str, ...], float]


@dataclass(frozen=True)
class Survey:
    """Counts by label values; see AggregatorMetrics for the labels."""

    rounds: Counts = field(default_factory=dict)
    stages: Counts = field(default_factory=dict)
    clients: Counts = field(default_factory=dict)
    participations: Counts = field(default_factory=dict)
    current_versions: Counts = field(default_factory=dict)
    model_metrics: Counts = field(default_factory=dict)
    unsent_messages: int = 0
    drained: bool = False


async def take_survey(session: AsyncSession, present_since: datetime) -> Survey:
    """Count everything; a client that was not heard of since `present_since` is away."""
    unsent = await session.scalar(select(func.count()).select_from(OutboxRow).where(OutboxRow.sent_at.is_(None)))
    return Survey(
        rounds=await _counted(session, RoundRow.federation_id, RoundRow.state),
        stages=await _open_stages(session),
        clients=await _clients(session, present_since),
        participations=await _participations(session),
        current_versions=await _current_versions(session),
        model_metrics=await _model_metrics(session),
        unsent_messages=unsent or 0,
        drained=await get_drain(session) is not None,
    )


async def _counted(session: AsyncSession, *columns: object) -> Counts:
    rows = await session.execute(select(*columns, func.count()).group_by(*columns))  # type: ignore[call-overload]
    return {tuple(row[:-1]): float(row[-1]) for row in rows}


async def _open_stages(session: AsyncSession) -> Counts:
    query = select(StageRow.kind, StageRow.state, func.count()).group_by(StageRow.kind, StageRow.state)
    rows = await session.execute(query.where(StageRow.state.in_((StageState.PENDING.value, StageState.RUNNING.value))))
    return {(kind, state): float(count) for kind, state, count in rows}


async def _clients(session: AsyncSession, present_since: datetime) -> Counts:
    state = case(
        (ClientRow.revoked_at.is_not(None), "revoked"),
        (ClientRow.enrolled_at.is_(None), "invited"),
        (ClientRow.last_seen_at >= present_since, "present"),
        else_="away",
    )
    rows = await session.execute(select(ClientRow.federation_id, state))
    return {key: float(count) for key, count in Counter((federation, is_) for federation, is_ in rows).items()}


async def _participations(session: AsyncSession) -> Counts:
    latest = (
        select(RoundRow.federation_id, func.max(RoundRow.number).label("number"))
        .where(RoundRow.id.in_(select(ParticipationRow.round_id)))
        .group_by(RoundRow.federation_id)
        .subquery()
    )
    query = (
        select(RoundRow.federation_id, ParticipationRow.state, func.count())
        .join(ParticipationRow, ParticipationRow.round_id == RoundRow.id)
        .join(latest, (latest.c.federation_id == RoundRow.federation_id) & (latest.c.number == RoundRow.number))
        .group_by(RoundRow.federation_id, ParticipationRow.state)
    )
    return {(federation, state): float(count) for federation, state, count in await session.execute(query)}


async def _current_versions(session: AsyncSession) -> Counts:
    query = select(FederationRow.id, FederationRow.current_version).where(FederationRow.current_version.is_not(None))
    return {(federation,): float(version or 0) for federation, version in await session.execute(query)}


async def _model_metrics(session: AsyncSession) -> Counts:
    values: Counts = {}
    for federation in await session.scalars(select(FederationRow.id)):
        query = select(ModelVersionRow).where(ModelVersionRow.federation_id == federation)
        for row in await session.scalars(query.order_by(ModelVersionRow.version.desc()).limit(_VERSIONS)):
            values |= {(federation, str(row.version), name): value for name, value in row.metrics.items()}
    return values
