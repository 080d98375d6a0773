"""What the database says of the objects that a round left behind: which are named, needed, or still on their way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.domain.config import FederationConfig, stored_federation_config
from fedafd.domain.kinds import UploadPurpose
from fedafd.domain.states import OPEN_ROUND_STATES, RoundState, StageState
from fedafd.persistence.database import affected_rows
from fedafd.persistence.models import (
    ArtifactRow,
    FederationRow,
    ModelFileRow,
    ModelVersionRow,
    ParticipationRow,
    RoundRow,
    StageRow,
    UploadRow,
    utc_now,
)
from fedafd.persistence.participation_repository import OPEN_PARTICIPATIONS

__all__ = [
    "Known",
    "cancel_left_stages",
    "forgettable_artifacts",
    "known_objects",
    "mark_swept",
    "next_unswept_round",
]

LATE_WRITES = timedelta(minutes=30)
"""After the end of a round: a distiller that was at work when it was cancelled may store what it made until then, and a
site what it has a form for, which is good for a quarter of an hour."""
_LOOKED_BACK = timedelta(days=1)
_OPEN = sorted(state.value for state in OPEN_ROUND_STATES)
_IN_VAIN = (RoundState.FAILED.value, RoundState.CANCELLED.value)
_OPEN_STAGES = (StageState.PENDING.value, StageState.RUNNING.value)


@dataclass(frozen=True)
class Known:
    """As of one moment."""

    federations: frozenset[str]
    open_rounds: frozenset[tuple[str, int]]
    """Federation and number."""
    named: frozenset[str]
    """Keys."""
    uploads: frozenset[str]
    """Ids of those whose chunks may still be needed."""


async def known_objects(session: AsyncSession, row: RoundRow | None = None) -> Known:
    """What is known of all objects, or of those of one round."""
    rounds = select(RoundRow.federation_id, RoundRow.number).where(RoundRow.state.in_(_OPEN))
    artifacts, files = select(ArtifactRow.key), select(ModelFileRow.key)
    states = select(ModelVersionRow.state_key).where(ModelVersionRow.state_removed_at.is_(None))
    arriving = (
        select(UploadRow.id)
        .join(RoundRow, UploadRow.round_id == RoundRow.id)
        .join(
            ParticipationRow,
            (ParticipationRow.round_id == UploadRow.round_id) & (ParticipationRow.client_id == UploadRow.client_id),
        )
        .where(RoundRow.state.in_(_OPEN), ParticipationRow.state.in_(OPEN_PARTICIPATIONS))
    )
    if row is not None:
        rounds = rounds.where(RoundRow.id == row.id)
        artifacts = artifacts.where(ArtifactRow.round_id == row.id)
        states = states.where(ModelVersionRow.round_id == row.id)
        files = files.join(ModelVersionRow, ModelFileRow.model_version_id == ModelVersionRow.id)
        files = files.where(ModelVersionRow.round_id == row.id)
        arriving = arriving.where(RoundRow.id == row.id)
    named: set[str] = set()
    for query in (artifacts, states, files):
        named |= set(await session.scalars(query))
    return Known(
        federations=frozenset(await session.scalars(select(FederationRow.id))),
        open_rounds=frozenset((federation, number) for federation, number in await session.execute(rounds)),
        named=frozenset(named),
        uploads=frozenset(await session.scalars(arriving)),
    )


async def next_unswept_round(session: AsyncSession) -> RoundRow | None:
    """A round that is over and was not swept yet, or not since its late writes came; the one that ended first."""
    over = select(RoundRow).where(RoundRow.state.not_in(_OPEN)).order_by(RoundRow.finished_at, RoundRow.id)
    unswept = await session.scalar(over.where(RoundRow.swept_at.is_(None)).limit(1))
    return unswept or await _swept_too_early(session)


async def _swept_too_early(session: AsyncSession) -> RoundRow | None:
    now = utc_now()
    ended = RoundRow.finished_at.between(now - _LOOKED_BACK, now - LATE_WRITES)
    times = select(RoundRow.id, RoundRow.finished_at, RoundRow.swept_at).where(ended, RoundRow.swept_at.is_not(None))
    for round_id, finished_at, swept_at in (await session.execute(times.order_by(RoundRow.finished_at))).all():
        if swept_at and finished_at and swept_at < finished_at + LATE_WRITES:
            return await session.get_one(RoundRow, round_id)
    return None


async def mark_swept(session: AsyncSession, round_id: str) -> None:
    """Nothing that the round left behind is there any more."""
    await session.execute(update(RoundRow).where(RoundRow.id == round_id).values(swept_at=utc_now()))


async def cancel_left_stages(session: AsyncSession, round_id: str | None = None) -> int:
    """Cancel open stages of rounds that are over, such as a fold that was added while its round failed; how many."""
    over = select(RoundRow.id).where(RoundRow.state.not_in(_OPEN))
    if round_id is not None:
        over = over.where(RoundRow.id == round_id)
    left = update(StageRow).where(StageRow.state.in_(_OPEN_STAGES), StageRow.round_id.in_(over))
    return await affected_rows(session, left.values(state=StageState.CANCELLED.value, finished_at=utc_now()))


async def forgettable_artifacts(session: AsyncSession, round_id: str | None = None) -> Sequence[ArtifactRow]:
    """Artifacts of rounds that failed or were cancelled, or of one such round: nothing reads them any more.

    But for representations that clients delivered, where a federation lets those of an earlier round count.
    """
    query = select(ArtifactRow).join(RoundRow, ArtifactRow.round_id == RoundRow.id)
    query = query.where(
        RoundRow.state.in_(_IN_VAIN),
        ArtifactRow.key.not_in(select(ModelVersionRow.state_key)),
        ArtifactRow.key.not_in(select(ModelFileRow.key)),
    )
    if round_id is not None:
        query = query.where(RoundRow.id == round_id)
    artifacts = (await session.scalars(query)).all()
    stale_counts = await _federations_with_stale_deliveries(session) if artifacts else set()
    return [
        artifact for artifact in artifacts if not (artifact.federation_id in stale_counts and _is_delivery(artifact))
    ]


def _is_delivery(row: ArtifactRow) -> bool:
    return row.client_id is not None and row.purpose == UploadPurpose.REPRESENTATIONS.value


async def _federations_with_stale_deliveries(session: AsyncSession) -> set[str]:
    """Those whose configuration, or that of an open round, lets what was sent in an earlier round count."""
    rounds = select(RoundRow.federation_id, RoundRow.config).where(RoundRow.state.in_(_OPEN))
    federations = (await session.execute(select(FederationRow.id, FederationRow.config))).all()
    configs = [*federations, *(await session.execute(rounds)).all()]
    return {federation for federation, config in configs if _lets_stale_count(stored_federation_config(config))}


def _lets_stale_count(config: FederationConfig) -> bool:
    return config.distillation.staleness_decay is not None
