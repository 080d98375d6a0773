"""HTTP of global model versions."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.control_plane.callers import Viewer
from fedafd.control_plane.context import ContextDep
from fedafd.control_plane.idempotency import OperatorOnce, ViewerOnce
from fedafd.control_plane.models import service
from fedafd.control_plane.models.downloads import archive_response, check_file, file_response
from fedafd.control_plane.models.reads import ModelRead
from fedafd.control_plane.models.schemas import DownloadTickets, ModelFile, ModelVersion, ModelVersionDetails
from fedafd.control_plane.names import FederationName, RoundNumber, Version
from fedafd.control_plane.paging import Cursor, Limit, Page, decode_number, page_of
from fedafd.control_plane.problems import problem_responses
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.model_repository import list_files, list_versions, pulled_files

__all__ = ["ARCHIVE", "FILE", "router"]

router = APIRouter(prefix="/v1/federations/{federation}/models", tags=["models"])

FILE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": {"application/octet-stream": {"schema": {"type": "string"}}}},
    206: {"description": "A part of it, where `Range` asked for one."},
    **problem_responses(401, 403, 404, 409, 416, 422, 502),
}
ARCHIVE: dict[int | str, dict[str, Any]] = {
    200: {"description": "An uncompressed tar.", "content": {"application/x-tar": {"schema": {"type": "string"}}}},
    206: {"description": "A part of it, where `Range` asked for one."},
    **problem_responses(401, 403, 404, 409, 416, 422, 502),
}


@router.get("", responses=problem_responses(401, 403, 404, 422))
async def get_models(
    federation: FederationName, context: ContextDep, _: Viewer, cursor: Cursor = None, limit: Limit = 50
) -> Page[ModelVersion]:
    """Global model versions, oldest first."""
    async with context.database.snapshot() as session:
        current = (await get_federation(session, federation)).current_version
        rows = await list_versions(session, federation, decode_number(cursor), limit + 1)
    return page_of(rows, limit, lambda row: row.version, lambda row: ModelVersion.of(row, current))


@router.post("/rollback", response_model=ModelVersion, responses=problem_responses(401, 403, 404, 409, 422))
async def roll_back_model(federation: FederationName, once: OperatorOnce) -> Response:
    """Go back to the version that the current one was trained from; no version is lost."""

    async def act(session: AsyncSession) -> ModelVersion:
        return await service.roll_back(session, federation, once.caller.actor)

    return await once(act, changed=federation)


@router.get("/rollback", include_in_schema=False)
async def get_rollback() -> None:
    """Without this, the path would be taken for that of a version."""
    raise HTTPException(405, "Method Not Allowed", {"Allow": "POST"})


@router.get("/{version}", responses=problem_responses(401, 403, 404, 422))
async def get_model(
    federation: FederationName, version: Version, context: ContextDep, _: Viewer
) -> ModelVersionDetails:
    """One global version with its files."""
    async with context.database.snapshot() as session:
        row, current = await service.find_global(session, federation, version)
        files = [ModelFile.of(file) for file in await list_files(session, row)]
    return ModelVersionDetails(**ModelVersion.of(row, current).model_dump(), files=files)


@router.post("/{version}/promote", response_model=ModelVersion, responses=problem_responses(401, 403, 404, 409, 422))
async def promote_model(federation: FederationName, version: RoundNumber, once: OperatorOnce) -> Response:
    """Make a version, newer or older, the current one: the next round starts from it.

    A round that is open keeps the version that it started from, and becomes the current one when it completes.
    """

    async def act(session: AsyncSession) -> ModelVersion:
        return await service.promote(session, federation, version, once.caller.actor)

    return await once(act, changed=federation)


@router.get("/{version}/archive", response_class=Response, responses=ARCHIVE)
async def get_model_archive(
    federation: FederationName, version: Version, request: Request, context: ContextDep, caller: Viewer
) -> Response:
    """The version's folder as a tar."""
    async with context.database.snapshot() as session:
        row, _ = await service.find_global(session, federation, version)
        files = await pulled_files(session, federation, row)
    await context.model_reads.audit(context.database, ModelRead(caller, federation, None, row.version, "(archive)"))
    return await archive_response(request, context.objects, files, f"{federation}-{row.version}")


@router.get("/{version}/files/{path:path}", response_class=Response, responses=FILE)
async def get_model_file(
    federation: FederationName, version: Version, path: str, request: Request, context: ContextDep, caller: Viewer
) -> Response:
    """One file of the version's folder."""
    async with context.database.snapshot() as session:
        row, _ = await service.find_global(session, federation, version)
        files = await pulled_files(session, federation, row)
    check_file(files, path)
    await context.model_reads.audit(context.database, ModelRead(caller, federation, None, row.version, path))
    return await file_response(request, context.objects, files, path)


@router.post(
    "/{version}/tickets",
    response_model=DownloadTickets,
    responses=problem_responses(401, 403, 404, 409, 422),
)
async def make_model_tickets(
    federation: FederationName, version: Version, context: ContextDep, once: ViewerOnce
) -> Response:
    """URLs that read the version's files straight from the object store for 15 minutes, without a key.

    409 where the object store gives none (a folder).
    """

    async def act(session: AsyncSession) -> DownloadTickets:
        row, _ = await service.find_global(session, federation, version)
        answer = await service.tickets(context, await pulled_files(session, federation, row))
        ModelRead(once.caller, federation, None, row.version, "(tickets)").record(session)
        return answer

    return await once(act)
