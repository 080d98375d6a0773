"""HTTP of federations."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, cast

from fastapi import APIRouter, Body, Header, Response
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.control_plane.callers import Admin, Operator, Viewer, ViewerOfSome
from fedafd.control_plane.context import ContextDep
from fedafd.control_plane.federations import service
from fedafd.control_plane.federations.schemas import DeletedFederation, Federation
from fedafd.control_plane.idempotency import OperatorOnce
from fedafd.control_plane.names import FederationName
from fedafd.control_plane.paging import Cursor, Limit, Page, decode_name, page_of
from fedafd.control_plane.problems import problem_responses
from fedafd.persistence.federation_repository import get_federation, list_federations

__all__ = ["router"]

router = APIRouter(prefix="/v1/federations", tags=["federations"])

Config = Annotated[dict[str, Any], Body(description="The content of `federation.yaml`, as JSON.")]
IfMatch = Annotated[
    str | None,
    Header(pattern=r'^"[1-9][0-9]{0,8}"$', description="The `ETag` that was read; refused if it is not that any more."),
]


@router.post("", status_code=201, response_model=Federation, responses=problem_responses(401, 403, 409, 413, 422))
async def create_federation(config: Config, once: OperatorOnce) -> Response:
    """Create a federation from the content of `federation.yaml`."""

    async def act(session: AsyncSession) -> Federation:
        return Federation.of(await service.create(session, config, once.caller.actor))

    def location(answer: BaseModel) -> str:
        return f"/v1/federations/{cast('Federation', answer).name}"

    return await once(act, status=201, location=location)


@router.get("", responses=problem_responses(401, 403, 422))
async def get_federations(
    context: ContextDep, caller: ViewerOfSome, cursor: Cursor = None, limit: Limit = 50
) -> Page[Federation]:
    """All federations that the key opens, by name."""
    async with context.database.snapshot() as session:
        rows = await list_federations(session, decode_name(cursor), limit + 1, caller.federations)
    return page_of(rows, limit, lambda row: row.id, Federation.of)


@router.get("/{federation}", responses=problem_responses(401, 403, 404, 422))
async def get_one_federation(
    federation: FederationName, context: ContextDep, response: Response, _: Viewer
) -> Federation:
    """One federation with its configuration, whose version is the `ETag`."""
    async with context.database.snapshot() as session:
        row = await get_federation(session, federation)
    response.headers["ETag"] = f'"{row.config_version}"'
    return Federation.of(row)


@router.put("/{federation}", responses=problem_responses(401, 403, 404, 409, 413, 422))
async def put_federation(
    federation: FederationName,
    config: Config,
    context: ContextDep,
    response: Response,
    caller: Operator,
    if_match: IfMatch = None,
) -> Federation:
    """Replace the configuration. Refused (409) while a round is open, for what shapes a model that exists, and when
    `If-Match` says another version. Rounds queued from then on follow it."""
    expected = int(if_match.strip('"')) if if_match else None
    async with context.database.transaction() as session:
        row = await service.change_config(session, federation, config, expected, caller.actor)
    context.wakeups.changed(federation)
    response.headers["ETag"] = f'"{row.config_version}"'
    return Federation.of(row)


@router.delete("/{federation}", responses=problem_responses(401, 403, 404, 409, 422))
async def delete_federation(
    federation: FederationName, context: ContextDep, caller: Admin, dry_run: bool = False
) -> DeletedFederation:
    """Delete a federation with its clients, rounds and models for ever. Refused (409) while a round is open.

    An aggregator then removes its objects; the audit log and the public set stay. `dry_run`: tell what would go.
    """
    async with context.database.transaction() as session:
        extent = await service.remove(session, federation, caller.actor, dry_run=dry_run)
    if not dry_run:
        context.wakeups.changed(federation)
    return DeletedFederation(name=federation, deleted=not dry_run, **asdict(extent))
