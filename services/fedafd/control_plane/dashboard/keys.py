"""API keys: who has one, and the forms that make, rotate and revoke them; for admins."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Path, Request, Response
from pydantic import ValidationError

from fedafd.control_plane.api_keys import service
from fedafd.control_plane.api_keys.schemas import ApiKey, CreateApiKey, CreatedApiKey
from fedafd.control_plane.callers import check_role
from fedafd.control_plane.context import Context, ContextDep
from fedafd.control_plane.dashboard.rendering import render
from fedafd.control_plane.dashboard.routing import page_router, see
from fedafd.control_plane.dashboard.visits import AdminForm, Visit, Visitor
from fedafd.control_plane.names import NAME_PATTERN
from fedafd.domain.errors import InvalidRequestError
from fedafd.domain.kinds import Role
from fedafd.persistence.api_key_repository import create_key, get_key, list_keys, revoke_key
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.models import utc_now

__all__ = ["router"]

router = page_router()

_MOST = 1000
KeyName = Annotated[str, Path(pattern=NAME_PATTERN)]


def _admin(visitor: Visitor) -> Visit:
    check_role(visitor.caller, Role.ADMIN)
    return visitor


@router.get("/keys")
async def keys_page(request: Request, context: ContextDep, visitor: Annotated[Visit, Depends(_admin)]) -> Response:
    """All keys."""
    return await _page(request, context, visitor)


@router.post("/keys")
async def make_key(request: Request, context: ContextDep, form: AdminForm) -> Response:
    """Make a key; its secret stands on the answer, and nowhere again."""
    days = form.text("days")
    try:
        wanted = CreateApiKey(
            name=form.text("name"), role=Role(form.text("role")), expires_in_days=int(days) if days else None
        )
    except (ValidationError, ValueError):
        raise InvalidRequestError(
            "a key's name is made of lower-case letters, digits and hyphens; its role is viewer, operator or admin; it"
            " lasts 1 to 3650 days"
        ) from None
    expires_at = utc_now() + timedelta(days=wanted.expires_in_days) if wanted.expires_in_days else None
    actor = form.caller.actor
    async with context.database.transaction() as session:
        row, secret = await create_key(session, wanted.name, wanted.role, created_by=actor, expires_at=expires_at)
        record_event(session, "api_key.created", federation_id=None, actor=actor, name=row.name, role=row.role)
        made = CreatedApiKey.created(row, secret)
    return await _page(request, context, form.visit, made)


@router.post("/keys/{name}/revoke")
async def revoke(name: KeyName, context: ContextDep, form: AdminForm) -> Response:
    """Refuse a key from now on."""
    async with context.database.transaction() as session:
        row = await get_key(session, name)
        await revoke_key(session, row)
        record_event(session, "api_key.revoked", federation_id=None, actor=form.caller.actor, name=row.name)
    return see("/keys")


@router.post("/keys/{name}/rotate")
async def rotate(request: Request, name: KeyName, context: ContextDep, form: AdminForm) -> Response:
    """Give a key another secret until it expires as before; the secret stands on the answer, and nowhere again."""
    async with context.database.transaction() as session:
        row = await get_key(session, name)
        made = await service.rotate(session, row, form.caller, row.expires_at)
    return await _page(request, context, form.visit, made)


async def _page(request: Request, context: Context, visit: Visit, made: CreatedApiKey | None = None) -> Response:
    async with context.database.snapshot() as session:
        keys = [ApiKey.of(row) for row in await list_keys(session, "", _MOST)]
    return render(request, "keys.html", visit, keys=keys, made=made, roles=list(Role))
