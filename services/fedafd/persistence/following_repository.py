"""Rounds of a region, which follow those of an upper federation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.artifacts.ref import ArtifactRef
from fedafd.domain.errors import ConflictError
from fedafd.domain.kinds import StageKind
from fedafd.domain.states import OPEN_ROUND_STATES, ParticipationState, RoundState, StageState
from fedafd.persistence.artifact_repository import NewArtifact, add_artifacts
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.models import FederationRow, RoundRow, StageRow, utc_now
from fedafd.persistence.participation_repository import list_participations, settle_participation
from fedafd.persistence.round_repository import transition_round
from fedafd.persistence.stage_repository import cancel_stages

__all__ = ["add_following_round", "end_round", "following_round", "note_receipt", "open_following_rounds"]

ACTOR = "region"


async def following_round(session: AsyncSession, federation_id: str, upstream_round_id: str) -> RoundRow | None:
    """The federation's part of an upper round, or None before it has begun."""
    query = select(RoundRow).where(
        RoundRow.federation_id == federation_id, RoundRow.upstream_round_id == upstream_round_id
    )
    return await session.scalar(query)


async def open_following_rounds(session: AsyncSession, federation_id: str) -> Sequence[RoundRow]:
    """The federation's parts of upper rounds that are not over, ascending."""
    query = select(RoundRow).where(
        RoundRow.federation_id == federation_id,
        RoundRow.upstream_round_id.is_not(None),
        RoundRow.state.in_([state.value for state in OPEN_ROUND_STATES]),
    )
    return (await session.scalars(query.order_by(RoundRow.number))).all()


async def add_following_round(
    session: AsyncSession,
    federation: FederationRow,
    *,
    number: int,
    upstream_round_id: str,
    config: Mapping[str, Any],
    public_set_sha256: str,
    prepared: Mapping[str, ArtifactRef],
) -> RoundRow:
    """Queue a part of an upper round, under its number, with what was prepared above. Raises ConflictError.

    `prepared`: outputs of the upper round's preparing stage by name, which lie in this federation's store.
    """
    taken = select(RoundRow.id).where(RoundRow.federation_id == federation.id, RoundRow.number == number)
    if await session.scalar(taken) is not None:
        raise ConflictError(
            f"federation {federation.id}: has a round {number} of its own already; a region needs a federation that has"
            " followed no other: create one, and name it in region.yaml"
        )
    row = RoundRow(
        federation_id=federation.id,
        number=number,
        config=dict(config),
        public_set_sha256=public_set_sha256,
        upstream_round_id=upstream_round_id,
    )
    session.add(row)
    await session.flush()
    done = {"state": StageState.DONE.value, "progress": 1.0, "finished_at": utc_now(), "worker": ACTOR}
    outputs = dict(prepared)
    session.add(StageRow(round_id=row.id, kind=StageKind.PREPARE.value, inputs={}, outputs=outputs, metrics={}, **done))
    for entry in prepared.values():
        await add_artifacts(session, [NewArtifact(federation.id, entry, round_id=row.id)])
    record_event(session, "rounds.queued", federation_id=federation.id, actor=ACTOR, numbers=[number])
    return row


async def note_receipt(session: AsyncSession, row: RoundRow, receipt: str) -> None:
    """The upper federation has taken the merged states."""
    await session.execute(update(RoundRow).where(RoundRow.id == row.id).values(upstream_receipt=receipt))
    record_event(
        session, "region.delivered", federation_id=row.federation_id, actor=ACTOR, round=row.number, receipt=receipt
    )


async def end_round(session: AsyncSession, row: RoundRow, state: RoundState, reason: str) -> bool:
    """Fail or cancel an open round with all its parts; False if it has just moved on."""
    if not await transition_round(session, row, state, token=row.fencing_token, actor=ACTOR, reason=reason):
        return False
    await cancel_stages(session, row.id)
    for participation, _ in await list_participations(session, row.id):
        await settle_participation(session, participation.id, ParticipationState.DROPPED, reason=reason)
    return True
