"""HTTP of drain mode; for admins of all federations, and to look at for everybody with a key."""

from __future__ import annotations

from fastapi import APIRouter

from fedafd.control_plane.callers import Admin, ViewerOfSome
from fedafd.control_plane.context import ContextDep
from fedafd.control_plane.drain.schemas import Drain, StartDrain
from fedafd.control_plane.problems import problem_responses
from fedafd.domain.plain_text import plain_text
from fedafd.persistence.drain_repository import end_drain, get_drain, start_drain
from fedafd.persistence.round_repository import list_open_rounds

__all__ = ["router"]

router = APIRouter(prefix="/v1/drain", tags=["drain"])


@router.get("", responses=problem_responses(401, 403))
async def get_drain_state(context: ContextDep, caller: ViewerOfSome) -> Drain:
    """Whether queued rounds are held, and which rounds of the federations that the key opens still run."""
    async with context.database.snapshot() as session:
        rounds = [row for row in await list_open_rounds(session) if caller.opens(row.federation_id)]
        return Drain.of(await get_drain(session), rounds)


@router.put("", responses=problem_responses(401, 403, 413, 422))
async def drain(body: StartDrain, context: ContextDep, caller: Admin) -> Drain:
    """Hold queued rounds from here on; running ones run to their end. Safe to repeat."""
    async with context.database.transaction() as session:
        row = await start_drain(session, caller.actor, plain_text(body.reason or "") or None)
        return Drain.of(row, await list_open_rounds(session))


@router.delete("", responses=problem_responses(401, 403))
async def resume(context: ContextDep, caller: Admin) -> Drain:
    """Let queued rounds start again. Safe to repeat."""
    async with context.database.transaction() as session:
        await end_drain(session, caller.actor)
        rounds = await list_open_rounds(session)
    for federation in {row.federation_id for row in rounds}:
        context.wakeups.changed(federation)
    return Drain.of(None, rounds)
