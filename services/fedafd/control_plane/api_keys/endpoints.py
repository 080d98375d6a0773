"""HTTP of API keys; for admins of all federations."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, cast

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.control_plane.api_keys import service
from fedafd.control_plane.api_keys.schemas import ApiKey, CreateApiKey, CreatedApiKey, RotateApiKey
from fedafd.control_plane.callers import Admin
from fedafd.control_plane.context import ContextDep
from fedafd.control_plane.idempotency import AdminOnce
from fedafd.control_plane.names import NAME_PATTERN
from fedafd.control_plane.paging import Cursor, Limit, Page, decode_name, page_of
from fedafd.control_plane.problems import problem_responses
from fedafd.persistence.api_key_repository import get_key, list_keys

__all__ = ["router"]

router = APIRouter(prefix="/v1/api-keys", tags=["API keys"])

KeyName = Annotated[str, Path(pattern=NAME_PATTERN, examples=["dashboard"], description="The key's name.")]


@router.post(
    "", status_code=201, response_model=CreatedApiKey, responses=problem_responses(401, 403, 404, 409, 413, 422)
)
async def create_api_key(body: CreateApiKey, once: AdminOnce) -> Response:
    """Make a key. The answer holds its secret, which is never shown again."""

    async def act(session: AsyncSession) -> CreatedApiKey:
        return await service.create(session, body, once.caller.actor)

    def location(answer: BaseModel) -> str:
        return f"/v1/api-keys/{cast('ApiKey', answer).name}"

    return await once(act, status=201, location=location)


@router.get("", responses=problem_responses(401, 403, 422))
async def get_api_keys(context: ContextDep, _: Admin, cursor: Cursor = None, limit: Limit = 50) -> Page[ApiKey]:
    """All keys by name, revoked ones too."""
    async with context.database.snapshot() as session:
        rows = await list_keys(session, decode_name(cursor), limit + 1)
    return page_of(rows, limit, lambda row: row.name, ApiKey.of)


@router.get("/{name}", responses=problem_responses(401, 403, 404, 422))
async def get_api_key(name: KeyName, context: ContextDep, _: Admin) -> ApiKey:
    """One key."""
    async with context.database.snapshot() as session:
        return ApiKey.of(await get_key(session, name))


@router.delete("/{name}", responses=problem_responses(401, 403, 404, 409, 422))
async def revoke_api_key(name: KeyName, context: ContextDep, caller: Admin) -> ApiKey:
    """Revoke a key: it is refused from now on, and its streams end. Refused (409) for the last admin's."""
    async with context.database.transaction() as session:
        row = await service.revoke(session, name, caller.actor)
    return ApiKey.of(row)


@router.post("/{name}/rotate", response_model=CreatedApiKey, responses=problem_responses(401, 403, 404, 409, 413, 422))
async def rotate_api_key(name: KeyName, body: RotateApiKey, once: AdminOnce) -> Response:
    """Give a key a new secret, which the answer holds and which is never shown again. The old one is refused at once,
    or after `overlap_hours`.

    Sessions of the dashboard that began with the old one end with it. Refused (409) for a revoked key, for the first
    admin's, which the settings give, and without an overlap for the caller's own: were the answer lost, so would be the
    way in.
    """

    async def act(session: AsyncSession) -> CreatedApiKey:
        row, overlap = await get_key(session, name), timedelta(hours=body.overlap_hours)
        return await service.rotate(session, row, once.caller, service.expiry(body.expires_in_days), overlap)

    return await once(act, status=200)
