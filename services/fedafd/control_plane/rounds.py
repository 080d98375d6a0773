"""Rounds: start, list, watch, cancel."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.control_plane.context import ContextDep, Limit, operator, viewer
from fedafd.domain.errors import ConflictError
from fedafd.domain.states import OPEN_ROUND_STATES, ParticipationState, RoundState
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.models import RoundRow
from fedafd.persistence.participation_repository import list_participations, settle_participation
from fedafd.persistence.round_repository import add_rounds, get_round_by_number, list_rounds, transition_round
from fedafd.persistence.stage_repository import cancel_stages, list_stages

__all__ = ["router"]

router = APIRouter(prefix="/v1/federations/{federation}/rounds", tags=["rounds"])


class StartRounds(BaseModel):
    """How many rounds to queue."""

    count: int = Field(1, ge=1, le=1000)


@router.post("", status_code=201)
async def start_rounds(federation: str, body: StartRounds, context: ContextDep, caller: operator) -> dict[str, Any]:
    """Queue rounds; they run one after the other."""
    async with context.database.transaction() as session:
        row = await get_federation(session, federation)
        if row.public_set_sha256 is None:
            raise ConflictError(
                f"federation {federation}: has no public set yet; push one with `fedafd public-set push`"
            )
        rounds = await add_rounds(session, row.id, row.config, row.public_set_sha256, body.count)
        numbers = [each.number for each in rounds]
        record_event(session, "rounds.queued", federation_id=row.id, actor=caller.actor, numbers=numbers)
    context.changed(federation)
    return {"items": [_summary(each) for each in rounds]}


@router.get("")
async def get_rounds(
    federation: str, context: ContextDep, _: viewer, cursor: int = 0, limit: Limit = 50
) -> dict[str, Any]:
    """The federation's rounds, by number."""
    async with context.database.transaction() as session:
        await get_federation(session, federation)
        rows = await list_rounds(session, federation, cursor, limit)
    return {"items": [_summary(row) for row in rows], "next_cursor": rows[-1].number if len(rows) == limit else None}


@router.get("/{number}")
async def get_one_round(federation: str, number: int, context: ContextDep, _: viewer) -> dict[str, Any]:
    """One round with its participations and stages."""
    async with context.database.transaction() as session:
        return await _details(session, await get_round_by_number(session, federation, number))


@router.post("/{number}/cancel")
async def cancel_round(federation: str, number: int, context: ContextDep, caller: operator) -> dict[str, Any]:
    """Cancel a round that is not over; the current model version stays."""
    async with context.database.transaction() as session:
        row = await get_round_by_number(session, federation, number)
        if RoundState(row.state) not in OPEN_ROUND_STATES:
            raise ConflictError(f"round {number}: is {row.state} and cannot be cancelled")
        reason = f"cancelled by {caller.name}"
        token = row.fencing_token
        if not await transition_round(
            session, row, RoundState.CANCELLED, token=token, actor=caller.actor, reason=reason
        ):
            raise ConflictError(f"round {number}: has just moved on; look again")
        await cancel_stages(session, row.id)
        for participation, _ in await list_participations(session, row.id):
            await settle_participation(session, participation.id, ParticipationState.DROPPED, reason=reason)
        answer = await _details(session, row)
    context.changed(federation)
    return answer


async def _details(session: AsyncSession, row: RoundRow) -> dict[str, Any]:
    participations = [
        {
            "client": client.name,
            "kind": client.kind,
            "state": part.state,
            "progress": part.progress,
            "activity": part.activity,
            "reason": part.reason,
            "metrics": part.metrics,
            "bytes_up": part.bytes_up,
            "bytes_down": part.bytes_down,
        }
        for part, client in await list_participations(session, row.id)
    ]
    stages = [
        {
            "kind": stage.kind,
            "modality": stage.modality or None,
            "state": stage.state,
            "progress": stage.progress,
            "activity": stage.activity,
            "worker": stage.worker,
            "reason": stage.reason,
        }
        for stage in await list_stages(session, row.id)
    ]
    return _summary(row) | {"participations": participations, "stages": stages}


def _summary(row: RoundRow) -> dict[str, Any]:
    return {
        "number": row.number,
        "state": row.state,
        "reason": row.reason,
        "metrics": row.metrics,
        "base_version": row.base_version,
        "public_set_sha256": row.public_set_sha256,
        "created_at": row.created_at.isoformat(),
        "started_at": row.started_at.isoformat() if row.started_at else None,
        "finished_at": row.finished_at.isoformat() if row.finished_at else None,
        "deadline_at": row.deadline_at.isoformat() if row.deadline_at else None,
    }
