"""A federation's sites: who is there, and the forms that invite and revoke them."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request, Response
from pydantic import ValidationError

from fedafd.control_plane.clients import service
from fedafd.control_plane.clients.schemas import Client, InviteClient, InvitedClient
from fedafd.control_plane.context import Context, ContextDep
from fedafd.control_plane.dashboard.agent_yaml import (
    ADAPTERS,
    agent_yaml,
    checked_address,
    checked_path,
    region_yaml,
)
from fedafd.control_plane.dashboard.federation import federation_page
from fedafd.control_plane.dashboard.routing import page_router, see
from fedafd.control_plane.dashboard.visits import Form, OperatorForm, Visitor
from fedafd.control_plane.names import NAME_PATTERN, ClientName, FederationName
from fedafd.control_plane.paging import MAX_INTEGER
from fedafd.control_plane.rounds.schemas import PastParticipation
from fedafd.domain.addresses import split_address
from fedafd.domain.errors import InvalidRequestError
from fedafd.domain.headline import gain_words, main_figure
from fedafd.domain.kinds import ClientKind, ParticipantKind
from fedafd.persistence.client_repository import get_client, list_clients
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.participation_repository import history_of

__all__ = ["router"]

router = page_router()

_PAGE = 100
_ASKED_HOST = "0.0.0.0"  # noqa: S104 (nothing listens there: it is compared with)


@router.get("/federations/{federation}/sites")
async def sites_page(
    request: Request,
    federation: FederationName,
    context: ContextDep,
    visitor: Visitor,
    after: Annotated[str, Query(pattern=NAME_PATTERN + "|^$", max_length=63)] = "",
) -> Response:
    """The sites, by name."""
    async with context.database.snapshot() as session:
        owner = await get_federation(session, federation)
        rows = await list_clients(session, federation, after, _PAGE + 1)
    shown = rows[:_PAGE]
    there = await service.presences(context, federation, shown)
    return federation_page(
        request,
        "sites.html",
        visitor,
        owner,
        sites=[Client.of(row, there.get(row.name)) for row in shown],
        more=shown[-1].name if len(rows) > _PAGE else None,
        is_first=not after,
        kinds=list(ParticipantKind),
        aggregator=_aggregator_address(request, context),
    )


@router.get("/federations/{federation}/sites/{client}")
async def site_page(
    request: Request,
    federation: FederationName,
    client: ClientName,
    context: ContextDep,
    visitor: Visitor,
    before: Annotated[int | None, Query(ge=1, le=MAX_INTEGER)] = None,
) -> Response:
    """One site: its state, and its part in each round, the newest first."""
    async with context.database.snapshot() as session:
        owner = await get_federation(session, federation)
        row = await get_client(session, federation, client)
        parts = await history_of(session, row.id, before, _PAGE + 1)
    there = await service.presences(context, federation, [row])
    shown = [PastParticipation.in_round(part, row, of) for part, of in parts[:_PAGE]]
    return federation_page(
        request,
        "site.html",
        visitor,
        owner,
        site=Client.of(row, there.get(row.name)),
        parts=[(part, main_figure(part.metrics or {}), gain_words(part.metrics or {})) for part in shown],
        older=shown[-1].round if len(parts) > _PAGE else None,
        is_first=before is None,
    )


@router.post("/federations/{federation}/sites")
async def invite_site(
    request: Request, federation: FederationName, context: ContextDep, form: OperatorForm
) -> Response:
    """Invite a site; its token stands on the answer, and nowhere again."""
    aggregator, path = checked_address(form.text("aggregator")), checked_path(form.text("path"))
    try:
        kind = ParticipantKind(form.text("kind"))
        most = int(form.text("max_clients") or "0") or None
        wanted = InviteClient(name=form.text("name"), kind=kind, max_clients=most)
    except (ValidationError, ValueError):
        raise InvalidRequestError(
            "a site's name is made of lower-case letters, digits and hyphens, and its kind is image, text or pair; a"
            " region, and only a region, needs the number of sites that it may stand for"
        ) from None
    async with context.database.transaction() as session:
        invited = await service.invite(
            session,
            federation,
            wanted,
            context.invitation_lifetime,
            form.caller.actor,
            name_authority=context.name_authority,
        )
    context.wakeups.changed(federation)
    return await _invited(request, context, federation, form, invited, aggregator, path)


@router.post("/federations/{federation}/sites/{client}/invite")
async def invite_again(
    request: Request, federation: FederationName, client: ClientName, context: ContextDep, form: OperatorForm
) -> Response:
    """Invite a known site or region again; its old token and credential are void at once."""
    async with context.database.transaction() as session:
        invited = await service.renew(
            session,
            federation,
            client,
            context.invitation_lifetime,
            form.caller.actor,
            name_authority=context.name_authority,
        )
    context.wakeups.changed(federation)
    return await _invited(request, context, federation, form, invited, _aggregator_address(request, context), "")


@router.post("/federations/{federation}/sites/{client}/revoke")
async def revoke_site(
    federation: FederationName, client: ClientName, context: ContextDep, form: OperatorForm
) -> Response:
    """Refuse a site from now on."""
    async with context.database.transaction() as session:
        await service.revoke(session, federation, client, form.caller.actor)
    context.wakeups.changed(federation)
    return see(f"/federations/{federation}/sites")


def _aggregator_address(request: Request, context: Context) -> str:
    host, port = split_address(context.agents_address)
    if host != _ASKED_HOST:
        return context.agents_address
    asked = request.url.hostname or "aggregator.example.org"
    return f"[{asked}]:{port}" if ":" in asked else f"{asked}:{port}"


async def _invited(
    request: Request,
    context: Context,
    federation: str,
    form: Form,
    invited: InvitedClient,
    aggregator: str,
    path: str,
) -> Response:
    kind = None if invited.kind is ParticipantKind.REGION else ClientKind(invited.kind)
    async with context.database.snapshot() as session:
        owner = await get_federation(session, federation)
    return federation_page(
        request,
        "invited.html",
        form.visit,
        owner,
        is_live=False,
        invited=invited,
        aggregator=aggregator,
        path=path or "/data",
        adapter=ADAPTERS[kind] if kind else "",
        first_file=agent_yaml(kind, aggregator, path or "/data") if kind else region_yaml(invited.name, aggregator),
    )
