"""What an overview of all federations is made of, in as many statements however many federations there are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.domain.states import OPEN_ROUND_STATES, RoundState, StageState
from fedafd.persistence.lease_repository import COORDINATOR_LEASE
from fedafd.persistence.models import ClientRow, LeaseRow, OutboxRow, ParticipationRow, RoundRow, StageRow

__all__ = [
    "clients_by_federation",
    "coordinator_lease",
    "last_finished_rounds",
    "open_stages",
    "participations_of",
    "unsent_stages",
]

_OPEN_STAGES = (StageState.PENDING.value, StageState.RUNNING.value)
_OVER = [state.value for state in RoundState if state not in OPEN_ROUND_STATES]


async def coordinator_lease(session: AsyncSession) -> LeaseRow | None:
    """Who moves rounds, and until when unless renewed; None where no aggregator ever did."""
    return await session.get(LeaseRow, COORDINATOR_LEASE)


async def clients_by_federation(session: AsyncSession) -> Mapping[str, list[ClientRow]]:
    """Clients that are not revoked, by federation and name."""
    query = select(ClientRow).where(ClientRow.revoked_at.is_(None))
    by_federation: dict[str, list[ClientRow]] = defaultdict(list)
    for row in await session.scalars(query.order_by(ClientRow.federation_id, ClientRow.name)):
        by_federation[row.federation_id].append(row)
    return by_federation


async def last_finished_rounds(session: AsyncSession) -> Mapping[str, RoundRow]:
    """Each federation's round with the highest number of those that are over."""
    newest = (
        select(RoundRow.federation_id, func.max(RoundRow.number).label("number"))
        .where(RoundRow.state.in_(_OVER))
        .group_by(RoundRow.federation_id)
        .subquery()
    )
    same = (RoundRow.federation_id == newest.c.federation_id) & (RoundRow.number == newest.c.number)
    return {row.federation_id: row for row in await session.scalars(select(RoundRow).join(newest, same))}


async def open_stages(session: AsyncSession) -> Mapping[str, list[StageRow]]:
    """Stages that are pending or running, by round, oldest first."""
    query = select(StageRow).where(StageRow.state.in_(_OPEN_STAGES)).order_by(StageRow.created_at, StageRow.id)
    by_round: dict[str, list[StageRow]] = defaultdict(list)
    for row in await session.scalars(query):
        by_round[row.round_id].append(row)
    return by_round


async def participations_of(
    session: AsyncSession, round_ids: Sequence[str]
) -> Mapping[str, list[tuple[ParticipationRow, ClientRow]]]:
    """Participations of these rounds with their clients, by round, in cohort order."""
    query = select(ParticipationRow, ClientRow).join(ClientRow, ParticipationRow.client_id == ClientRow.id)
    by_round: dict[str, list[tuple[ParticipationRow, ClientRow]]] = defaultdict(list)
    of_rounds = query.where(ParticipationRow.round_id.in_(round_ids)).order_by(ParticipationRow.position)
    for part, client in (await session.execute(of_rounds)).all():
        by_round[part.round_id].append((part, client))
    return by_round


async def unsent_stages(session: AsyncSession, written_before: datetime) -> frozenset[str]:
    """Ids of stages whose message to the distillers was written before then and has not left."""
    query = select(OutboxRow.stage_id).where(OutboxRow.sent_at.is_(None), OutboxRow.created_at < written_before)
    return frozenset(await session.scalars(query))
