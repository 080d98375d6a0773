"""HTTP of public sets: shards first, then the manifest that names them."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from fedafd.control_plane.callers import Operator, Viewer
from fedafd.control_plane.context import ContextDep
from fedafd.control_plane.names import FederationName, Sha256
from fedafd.control_plane.problems import problem_responses
from fedafd.control_plane.public_sets import service
from fedafd.control_plane.public_sets.schemas import PublicSet
from fedafd.domain.errors import NotFoundError
from fedafd.persistence.federation_repository import get_federation

__all__ = ["router"]

router = APIRouter(prefix="/v1/federations/{federation}/public-set", tags=["public set"])
_BYTES = {"requestBody": {"required": True, "content": {"application/octet-stream": {}}}}
_MANIFEST = {"requestBody": {"required": True, "content": {"application/json": {}}}}


@router.put(
    "/shards/{sha256}",
    status_code=204,
    response_class=Response,
    openapi_extra=_BYTES,
    responses=problem_responses(401, 403, 404, 413, 422, 502, 507),
)
async def put_shard(
    federation: FederationName, sha256: Sha256, request: Request, context: ContextDep, caller: Operator
) -> None:
    """Send one Parquet shard of the public set; its content must have the hash in the path. Repeating is harmless."""
    async with context.database.snapshot() as session:
        await get_federation(session, federation)
    await service.receive_shard(context, federation, sha256, request.stream(), caller.actor)


@router.put(
    "",
    openapi_extra=_MANIFEST,
    responses=problem_responses(401, 403, 404, 409, 413, 422, 502, 507),
)
async def put_public_set(
    federation: FederationName, request: Request, context: ContextDep, caller: Operator
) -> PublicSet:
    """Make a manifest, whose shards were sent before, the federation's public set. Rounds queued later use it."""
    row = await service.adopt(context, federation, await request.body(), caller.actor)
    context.wakeups.changed(federation)
    return PublicSet.of(row)


@router.get("", responses=problem_responses(401, 403, 404, 422))
async def get_public_set(federation: FederationName, context: ContextDep, _: Viewer) -> PublicSet:
    """The public set's hash and sizes."""
    async with context.database.snapshot() as session:
        row = await get_federation(session, federation)
    if row.public_set_sha256 is None:
        raise NotFoundError(f"federation {federation}: has no public set yet; push one with `fedafd public-set push`")
    return PublicSet.of(row)
