"""Queueing and cancelling rounds."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.control_plane.callers import Caller
from fedafd.control_plane.rounds.schemas import Participation, Round, RoundDetails, Rounds, Stage
from fedafd.domain.errors import ConcurrentChangeError, ConflictError, RoundClosedError
from fedafd.domain.states import OPEN_ROUND_STATES, ParticipationState, RoundState
from fedafd.persistence.event_repository import record_event, round_changes
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.models import RoundRow
from fedafd.persistence.participation_repository import list_participations, settle_participation
from fedafd.persistence.round_repository import add_rounds, get_round_by_number, transition_round
from fedafd.persistence.stage_repository import cancel_stages, list_stages

__all__ = ["cancel", "details", "start"]


async def start(session: AsyncSession, federation: str, count: int, actor: str) -> Rounds:
    """Queue rounds. Raises ConflictError for a federation without a public set, NotFoundError."""
    row = await get_federation(session, federation, lock=True)
    if row.follows is not None:
        raise ConflictError(
            f"federation {federation}: is a region of federation {row.follows}, and its rounds come from there; start"
            " rounds there"
        )
    if row.public_set_sha256 is None:
        raise ConflictError(f"federation {federation}: has no public set yet; push one with `fedafd public-set push`")
    rounds = await add_rounds(session, row.id, row.config, row.public_set_sha256, count)
    numbers = [row.number for row in rounds]
    record_event(session, "rounds.queued", federation_id=row.id, actor=actor, numbers=numbers)
    return Rounds(items=[Round.of(row) for row in rounds])


async def cancel(session: AsyncSession, federation: str, number: int, caller: Caller) -> RoundDetails:
    """Cancel an open round with all its parts. Raises RoundClosedError, ConcurrentChangeError, NotFoundError."""
    await get_federation(session, federation)
    row = await get_round_by_number(session, federation, number)
    if RoundState(row.state) not in OPEN_ROUND_STATES:
        raise RoundClosedError(f"round {number}: is {row.state} and cannot be cancelled")
    reason = f"cancelled by {caller.name}"
    token = row.fencing_token
    if not await transition_round(session, row, RoundState.CANCELLED, token=token, actor=caller.actor, reason=reason):
        raise ConcurrentChangeError(f"round {number}: has just moved on; look again")
    await cancel_stages(session, row.id)
    for participation, _ in await list_participations(session, row.id):
        await settle_participation(session, participation.id, ParticipationState.DROPPED, reason=reason)
    return await details(session, row)


async def details(session: AsyncSession, row: RoundRow) -> RoundDetails:
    """A round with its participations, in cohort order, and its stages, oldest first."""
    participations = [Participation.of(part, client) for part, client in await list_participations(session, row.id)]
    stages = [Stage.of(stage) for stage in await list_stages(session, row.id)]
    changes = await round_changes(session, row)
    collecting = next((change.at for change in changes if change.data.get("new") == RoundState.COLLECTING.value), None)
    return RoundDetails.with_parts(row, participations, stages, collecting)
