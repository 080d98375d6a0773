"""HTTP of personalized models: for that client's credential and admins only, and only what its site shares.

A credential opens what was shared since its enrolment: whoever enrols with a later invitation may be somebody else.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.control_plane.callers import AnyCaller
from fedafd.control_plane.context import ContextDep
from fedafd.control_plane.idempotency import AnyCallerOnce
from fedafd.control_plane.models import service
from fedafd.control_plane.models.downloads import archive_response, check_file, file_response
from fedafd.control_plane.models.endpoints import ARCHIVE, FILE
from fedafd.control_plane.models.reads import ModelRead
from fedafd.control_plane.models.schemas import (
    DownloadTickets,
    ModelFile,
    PersonalizedModel,
    PersonalizedModelDetails,
)
from fedafd.control_plane.names import ClientName, FederationName, Version
from fedafd.control_plane.paging import Cursor, Limit, Page, decode_number, page_of
from fedafd.control_plane.problems import problem_responses
from fedafd.persistence.model_repository import list_files, list_personalized, pulled_files

__all__ = ["router"]

router = APIRouter(prefix="/v1/federations/{federation}/clients/{client}/models", tags=["personalized models"])


@router.get("", responses=problem_responses(401, 403, 404, 422))
async def get_personalized_models(
    federation: FederationName,
    client: ClientName,
    context: ContextDep,
    caller: AnyCaller,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[PersonalizedModel]:
    """The personalized versions that the site shared, oldest first."""
    async with context.database.snapshot() as session:
        owner = await service.owned_client(session, federation, client, caller)
        since = service.readable_since(owner, caller)
        rows = await list_personalized(session, owner.id, decode_number(cursor), limit + 1, since)
    return page_of(rows, limit, lambda row: row.version, PersonalizedModel.of)


@router.get("/{version}", responses=problem_responses(401, 403, 404, 422))
async def get_personalized_model(
    federation: FederationName, client: ClientName, version: Version, context: ContextDep, caller: AnyCaller
) -> PersonalizedModelDetails:
    """One personalized version with its files; `current` for the newest."""
    async with context.database.snapshot() as session:
        row = await service.find_personalized(session, federation, client, version, caller)
        files = [ModelFile.of(file) for file in await list_files(session, row)]
    await context.model_reads.audit(context.database, ModelRead(caller, federation, client, row.version, "(details)"))
    return PersonalizedModelDetails(**PersonalizedModel.of(row).model_dump(), files=files)


@router.get("/{version}/archive", response_class=Response, responses=ARCHIVE)
async def get_personalized_archive(
    federation: FederationName,
    client: ClientName,
    version: Version,
    request: Request,
    context: ContextDep,
    caller: AnyCaller,
) -> Response:
    """The personalized version's folder as a tar."""
    async with context.database.snapshot() as session:
        row = await service.find_personalized(session, federation, client, version, caller)
        files = await pulled_files(session, federation, row)
    await context.model_reads.audit(context.database, ModelRead(caller, federation, client, row.version, "(archive)"))
    return await archive_response(request, context.objects, files, f"{federation}-{client}-{row.version}")


@router.get("/{version}/files/{path:path}", response_class=Response, responses=FILE)
async def get_personalized_file(
    federation: FederationName,
    client: ClientName,
    version: Version,
    path: str,
    request: Request,
    context: ContextDep,
    caller: AnyCaller,
) -> Response:
    """One file of the personalized version's folder."""
    async with context.database.snapshot() as session:
        row = await service.find_personalized(session, federation, client, version, caller)
        files = await pulled_files(session, federation, row)
    check_file(files, path)
    await context.model_reads.audit(context.database, ModelRead(caller, federation, client, row.version, path))
    return await file_response(request, context.objects, files, path)


@router.post("/{version}/tickets", response_model=DownloadTickets, responses=problem_responses(401, 403, 404, 409, 422))
async def make_personalized_tickets(
    federation: FederationName, client: ClientName, version: Version, context: ContextDep, once: AnyCallerOnce
) -> Response:
    """URLs that read the version's files straight from the object store for 15 minutes, without a key."""

    async def act(session: AsyncSession) -> DownloadTickets:
        row = await service.find_personalized(session, federation, client, version, once.caller)
        answer = await service.tickets(context, await pulled_files(session, federation, row))
        ModelRead(once.caller, federation, client, row.version, "(tickets)").record(session)
        return answer

    return await once(act)
