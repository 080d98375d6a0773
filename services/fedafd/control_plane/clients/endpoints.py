"""HTTP of clients."""

from __future__ import annotations

from typing import cast

from fastapi import APIRouter, Response
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.control_plane.callers import Admin, Operator, Viewer
from fedafd.control_plane.clients import service
from fedafd.control_plane.clients.schemas import (
    Client,
    ClientData,
    ExcludeClient,
    InviteAgain,
    InviteClient,
    InvitedClient,
)
from fedafd.control_plane.context import ContextDep
from fedafd.control_plane.idempotency import OperatorOnce
from fedafd.control_plane.names import ClientName, FederationName
from fedafd.control_plane.paging import Cursor, Limit, Page, decode_name, decode_number, page_of
from fedafd.control_plane.problems import problem_responses
from fedafd.control_plane.rounds.schemas import PastParticipation
from fedafd.persistence.client_repository import get_client, list_clients
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.participation_repository import history_of

__all__ = ["router"]

router = APIRouter(prefix="/v1/federations/{federation}/clients", tags=["clients"])


@router.post(
    "", status_code=201, response_model=InvitedClient, responses=problem_responses(401, 403, 404, 409, 413, 422)
)
async def invite_client(
    federation: FederationName, body: InviteClient, context: ContextDep, once: OperatorOnce
) -> Response:
    """Invite a client. The answer holds its one-time enrolment token, which is never shown again.

    A client that was invited but has not enrolled gets a new token; the old one is void.
    """

    async def act(session: AsyncSession) -> InvitedClient:
        lifetime, named = context.invitation_lifetime, context.name_authority
        return await service.invite(session, federation, body, lifetime, once.caller.actor, name_authority=named)

    def location(answer: BaseModel) -> str:
        return f"/v1/federations/{federation}/clients/{cast('Client', answer).name}"

    return await once(act, status=201, location=location, changed=federation)


@router.get("", responses=problem_responses(401, 403, 404, 422))
async def get_clients(
    federation: FederationName, context: ContextDep, _: Viewer, cursor: Cursor = None, limit: Limit = 50
) -> Page[Client]:
    """The federation's clients, by name, and whether their agents are there."""
    async with context.database.snapshot() as session:
        await get_federation(session, federation)
        rows = await list_clients(session, federation, decode_name(cursor), limit + 1)
    there = await service.presences(context, federation, rows)
    return page_of(rows, limit, lambda row: row.name, lambda row: Client.of(row, there.get(row.name)))


@router.get("/{client}", responses=problem_responses(401, 403, 404, 422))
async def get_one_client(federation: FederationName, client: ClientName, context: ContextDep, _: Viewer) -> Client:
    """One client."""
    async with context.database.snapshot() as session:
        await get_federation(session, federation)
        row = await get_client(session, federation, client)
    there = await service.presences(context, federation, [row])
    return Client.of(row, there.get(row.name))


@router.get("/{client}/participations", responses=problem_responses(401, 403, 404, 422))
async def get_participations(
    federation: FederationName,
    client: ClientName,
    context: ContextDep,
    _: Viewer,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[PastParticipation]:
    """The client's parts in rounds, the newest round first."""
    async with context.database.snapshot() as session:
        await get_federation(session, federation)
        row = await get_client(session, federation, client)
        parts = await history_of(session, row.id, decode_number(cursor) or None, limit + 1)
    return page_of(
        parts, limit, lambda part: part[1].number, lambda part: PastParticipation.in_round(part[0], row, part[1])
    )


@router.post(
    "/{client}/invitations",
    status_code=201,
    response_model=InvitedClient,
    responses=problem_responses(401, 403, 404, 409, 422),
)
async def invite_client_again(
    federation: FederationName,
    client: ClientName,
    context: ContextDep,
    once: OperatorOnce,
    body: InviteAgain | None = None,
) -> Response:
    """Invite a known client again: its site was set up anew, its credential was lost, or it was revoked by mistake.

    The old token and credential are void at once. The client keeps its name, its history and its models.
    """

    async def act(session: AsyncSession) -> InvitedClient:
        bound = None if body is None else body.max_clients
        lifetime, actor, named = context.invitation_lifetime, once.caller.actor, context.name_authority
        return await service.renew(
            session, federation, client, lifetime, actor, max_clients=bound, name_authority=named
        )

    return await once(act, status=201, changed=federation)


@router.delete("/{client}", responses=problem_responses(401, 403, 404, 409, 422))
async def revoke_client(
    federation: FederationName, client: ClientName, context: ContextDep, caller: Operator
) -> Client:
    """Revoke a client: its credential and token are refused from now on, and an open round goes on without it."""
    async with context.database.transaction() as session:
        answer = await service.revoke(session, federation, client, caller.actor)
    context.wakeups.changed(federation)
    return answer


@router.delete("/{client}/data", status_code=202, responses=problem_responses(401, 403, 404, 422))
async def forget_client(
    federation: FederationName, client: ClientName, context: ContextDep, caller: Admin
) -> ClientData:
    """Delete all that a client sent: representations, weights, personalized models, metrics, number of samples.

    The aggregator does it at once, or when the running round that has the client in it is over; asking again changes
    nothing. What was made of all clients together, the global model above all, stays, and the client may go on.
    """
    async with context.database.transaction() as session:
        answer = await service.forget(session, federation, client, caller.actor)
    context.wakeups.changed(federation)
    return answer


@router.get("/{client}/data", responses=problem_responses(401, 403, 404, 422))
async def get_client_data(federation: FederationName, client: ClientName, context: ContextDep, _: Viewer) -> ClientData:
    """Where the deletion of what a client sent stands, with the receipt of the last one."""
    async with context.database.snapshot() as session:
        return await service.data_of(session, federation, client)


@router.put("/{client}/exclusion", responses=problem_responses(401, 403, 404, 409, 413, 422))
async def exclude_client(
    federation: FederationName, client: ClientName, body: ExcludeClient, context: ContextDep, caller: Operator
) -> Client:
    """Leave a client out from a round on: it stays enrolled, and is not invited. Safe to repeat."""
    async with context.database.transaction() as session:
        answer = await service.exclude(session, federation, client, body, caller.actor)
    context.wakeups.changed(federation)
    return answer


@router.delete("/{client}/exclusion", responses=problem_responses(401, 403, 404, 409, 422))
async def readmit_client(
    federation: FederationName, client: ClientName, context: ContextDep, caller: Operator
) -> Client:
    """Invite a client again to the rounds to come."""
    async with context.database.transaction() as session:
        answer = await service.readmit(session, federation, client, caller.actor)
    context.wakeups.changed(federation)
    return answer
