"""HTTP of rounds."""

from __future__ import annotations

from fastapi import APIRouter, Response
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.control_plane.callers import Viewer
from fedafd.control_plane.context import ContextDep
from fedafd.control_plane.idempotency import OperatorOnce
from fedafd.control_plane.names import FederationName, RoundNumber
from fedafd.control_plane.paging import Cursor, Limit, Page, decode_number, page_of
from fedafd.control_plane.problems import problem_responses
from fedafd.control_plane.rounds import service
from fedafd.control_plane.rounds.schemas import Round, RoundDetails, Rounds, StartRounds
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.round_repository import get_round_by_number, list_rounds

__all__ = ["router"]

router = APIRouter(prefix="/v1/federations/{federation}/rounds", tags=["rounds"])


@router.post("", status_code=201, response_model=Rounds, responses=problem_responses(401, 403, 404, 409, 413, 422))
async def start_rounds(federation: FederationName, body: StartRounds, once: OperatorOnce) -> Response:
    """Queue rounds; they run one after the other, with the configuration and the public set of this moment."""

    async def act(session: AsyncSession) -> Rounds:
        return await service.start(session, federation, body.count, once.caller.actor)

    return await once(act, status=201, changed=federation)


@router.get("", responses=problem_responses(401, 403, 404, 422))
async def get_rounds(
    federation: FederationName, context: ContextDep, _: Viewer, cursor: Cursor = None, limit: Limit = 50
) -> Page[Round]:
    """The federation's rounds, by number."""
    async with context.database.snapshot() as session:
        await get_federation(session, federation)
        rows = await list_rounds(session, federation, decode_number(cursor), limit + 1)
    return page_of(rows, limit, lambda row: row.number, Round.of)


@router.get("/{number}", responses=problem_responses(401, 403, 404, 422))
async def get_one_round(
    federation: FederationName, number: RoundNumber, context: ContextDep, _: Viewer
) -> RoundDetails:
    """One round with its participations and stages."""
    async with context.database.snapshot() as session:
        await get_federation(session, federation)
        return await service.details(session, await get_round_by_number(session, federation, number))


@router.post("/{number}/cancel", response_model=RoundDetails, responses=problem_responses(401, 403, 404, 409, 422))
async def cancel_round(federation: FederationName, number: RoundNumber, once: OperatorOnce) -> Response:
    """Cancel a round that is not over; the current model version stays."""

    async def act(session: AsyncSession) -> RoundDetails:
        return await service.cancel(session, federation, number, once.caller)

    return await once(act, changed=federation)
