"""Model versions: global ones, and the personalized ones that sites shared."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.control_plane.context import Caller, Context, ContextDep, Limit, any_caller, operator, viewer
from fedafd.domain.errors import ForbiddenError, InvalidRequestError, NotFoundError
from fedafd.persistence.client_repository import get_client
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.model_repository import (
    get_personalized,
    get_version,
    list_files,
    list_personalized,
    list_versions,
)
from fedafd.persistence.models import ClientRow, ModelFileRow, ModelVersionRow, PersonalizedModelRow
from fedafd.rpc.bundles import pack_folder
from fedafd.storage.store import get_verified

__all__ = ["router"]

router = APIRouter(prefix="/v1/federations/{federation}", tags=["models"])
AnyCaller = Annotated[Caller, Depends(any_caller)]


@router.get("/models")
async def get_models(
    federation: str, context: ContextDep, _: viewer, cursor: int = 0, limit: Limit = 50
) -> dict[str, Any]:
    """Global model versions, oldest first."""
    async with context.database.transaction() as session:
        current = (await get_federation(session, federation)).current_version
        rows = await list_versions(session, federation, cursor, limit)
    items = [_described(row) | {"current": row.version == current} for row in rows]
    return {"items": items, "next_cursor": rows[-1].version if len(rows) == limit else None}


@router.get("/models/{version}")
async def get_model(federation: str, version: str, context: ContextDep, _: viewer) -> dict[str, Any]:
    """One global version with its files; `current` for the promoted one."""
    async with context.database.transaction() as session:
        row = await _global(session, federation, version)
        return _described(row) | {"files": _files(await list_files(session, row))}


@router.post("/models/{version}/promote")
async def promote_model(federation: str, version: int, context: ContextDep, caller: operator) -> dict[str, Any]:
    """Make a version, newer or older, the current one; the next round starts from it."""
    async with context.database.transaction() as session:
        row = await get_version(session, federation, version)
        owner = await get_federation(session, federation)
        old, owner.current_version = owner.current_version, row.version
        record_event(session, "model.promoted", federation_id=federation, actor=caller.actor, old=old, new=row.version)
    return _described(row) | {"current": True}


@router.get("/models/{version}/archive", response_class=Response)
async def get_archive(federation: str, version: str, context: ContextDep, _: viewer) -> Response:
    """The version's folder as a tar."""
    async with context.database.transaction() as session:
        files = await list_files(session, await _global(session, federation, version))
    return await _archive(context, files)


@router.get("/models/{version}/files/{path:path}", response_class=Response)
async def get_file(federation: str, version: str, path: str, context: ContextDep, _: viewer) -> Response:
    """One file of the version's folder."""
    async with context.database.transaction() as session:
        files = await list_files(session, await _global(session, federation, version))
    return await _one_file(context, files, path)


@router.get("/clients/{client}/models")
async def get_client_models(
    federation: str, client: str, context: ContextDep, caller: AnyCaller, cursor: int = 0, limit: Limit = 50
) -> dict[str, Any]:
    """The personalized versions that a site shared; for that client and admins only."""
    async with context.database.transaction() as session:
        owner = await _owned(session, federation, client, caller)
        rows = await list_personalized(session, owner.id, cursor, limit)
    return {
        "items": [_described(row) for row in rows],
        "next_cursor": rows[-1].version if len(rows) == limit else None,
    }


@router.get("/clients/{client}/models/{version}")
async def get_client_model(
    federation: str, client: str, version: str, context: ContextDep, caller: AnyCaller
) -> dict[str, Any]:
    """One personalized version with its files; `current` for the newest."""
    async with context.database.transaction() as session:
        owner = await _owned(session, federation, client, caller)
        row = await get_personalized(session, owner, _number(version))
        return _described(row) | {"files": _files(await list_files(session, row))}


@router.get("/clients/{client}/models/{version}/archive", response_class=Response)
async def get_client_archive(
    federation: str, client: str, version: str, context: ContextDep, caller: AnyCaller
) -> Response:
    """The personalized version's folder as a tar."""
    async with context.database.transaction() as session:
        owner = await _owned(session, federation, client, caller)
        files = await list_files(session, await get_personalized(session, owner, _number(version)))
    return await _archive(context, files)


async def _global(session: AsyncSession, federation: str, version: str) -> ModelVersionRow:
    owner = await get_federation(session, federation)
    number = _number(version)
    return await get_version(session, federation, owner.current_version if number is None else number)


async def _owned(session: AsyncSession, federation: str, client: str, caller: Caller) -> ClientRow:
    row = await get_client(session, federation, client)
    own = caller.client is not None and caller.client.id == row.id
    if not own and caller.role != "admin":
        raise ForbiddenError(f"personalized models of {client} are for that client's credential or an admin's key")
    return row


def _number(version: str) -> int | None:
    if version == "current":
        return None
    if not version.isdigit():
        raise InvalidRequestError(f"version {version!r}: must be a number or `current`")
    return int(version)


async def _archive(context: Context, files: Sequence[ModelFileRow]) -> Response:
    def packed() -> bytes:
        return pack_folder({file.path: get_verified(context.store, file.key, file.sha256) for file in files})

    return Response(await asyncio.to_thread(packed), media_type="application/x-tar")


async def _one_file(context: Context, files: Sequence[ModelFileRow], path: str) -> Response:
    found = next((file for file in files if file.path == path), None)
    if found is None:
        raise NotFoundError(f"{path}: the version has no such file; it has {', '.join(file.path for file in files)}")
    content = await asyncio.to_thread(get_verified, context.store, found.key, found.sha256)
    return Response(content, media_type="application/octet-stream")


def _described(row: ModelVersionRow | PersonalizedModelRow) -> dict[str, Any]:
    parent = {"parent_version": row.parent_version} if isinstance(row, ModelVersionRow) else {}
    return {"version": row.version, "metrics": row.metrics, "created_at": row.created_at.isoformat()} | parent


def _files(files: Sequence[ModelFileRow]) -> list[dict[str, Any]]:
    return [{"path": file.path, "sha256": file.sha256, "size_bytes": file.size_bytes} for file in files]
