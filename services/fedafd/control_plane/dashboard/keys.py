"""API keys: who has one, and the forms that make, rotate and revoke them; for admins of all federations."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Path, Request, Response
from pydantic import ValidationError

from fedafd.control_plane.api_keys import service
from fedafd.control_plane.api_keys.schemas import ApiKey, CreateApiKey, CreatedApiKey, RotateApiKey
from fedafd.control_plane.callers import check_role, check_scope
from fedafd.control_plane.context import Context, ContextDep
from fedafd.control_plane.dashboard.rendering import render
from fedafd.control_plane.dashboard.routing import page_router, see
from fedafd.control_plane.dashboard.visits import AdminForm, Form, Visit, Visitor
from fedafd.control_plane.names import NAME_PATTERN
from fedafd.domain.errors import InvalidRequestError
from fedafd.domain.kinds import Role
from fedafd.persistence.api_key_repository import get_key, list_keys
from fedafd.persistence.federation_repository import federation_ids

__all__ = ["router"]

router = page_router()

_MOST = 1000
KeyName = Annotated[str, Path(pattern=NAME_PATTERN)]


async def _admin(visitor: Visitor) -> Visit:
    check_role(visitor.caller, Role.ADMIN)
    check_scope(visitor.caller, None)
    return visitor


async def _form(form: AdminForm) -> Form:
    check_scope(form.caller, None)
    return form


KeysForm = Annotated[Form, Depends(_form)]


@router.get("/keys")
async def keys_page(request: Request, context: ContextDep, visitor: Annotated[Visit, Depends(_admin)]) -> Response:
    """All keys."""
    return await _page(request, context, visitor)


@router.post("/keys")
async def make_key(request: Request, context: ContextDep, form: KeysForm) -> Response:
    """Make a key; its secret stands on the answer, and nowhere again."""
    days = form.text("days")
    try:
        wanted = CreateApiKey(
            name=form.text("name"),
            role=Role(form.text("role")),
            expires_in_days=int(days) if days else None,
            federations=form.text("federations").replace(",", " ").split() or None,
        )
    except (ValidationError, ValueError):
        raise InvalidRequestError(
            "a key's name is made of lower-case letters, digits and hyphens; its role is viewer, operator or admin; it"
            " lasts 1 to 3650 days; it opens the federations that are named, or all"
        ) from None
    async with context.database.transaction() as session:
        created = await service.create(session, wanted, form.caller.actor)
    return await _page(request, context, form.visit, created)


@router.post("/keys/{name}/revoke")
async def revoke(name: KeyName, context: ContextDep, form: KeysForm) -> Response:
    """Refuse a key from now on."""
    async with context.database.transaction() as session:
        await service.revoke(session, name, form.caller.actor)
    return see("/keys")


@router.post("/keys/{name}/rotate")
async def rotate(request: Request, name: KeyName, context: ContextDep, form: KeysForm) -> Response:
    """Give a key another secret until it expires as before; the secret stands on the answer, and nowhere again."""
    try:
        wanted = timedelta(hours=RotateApiKey(overlap_hours=float(form.text("hours") or 0)).overlap_hours)
    except (ValidationError, ValueError):
        raise InvalidRequestError("hours: the old secret may be good for 0 to 720 hours more") from None
    async with context.database.transaction() as session:
        row = await get_key(session, name)
        rotated = await service.rotate(session, row, form.caller, row.expires_at, wanted)
    return await _page(request, context, form.visit, rotated)


async def _page(request: Request, context: Context, visit: Visit, created: CreatedApiKey | None = None) -> Response:
    async with context.database.snapshot() as session:
        keys = [ApiKey.of(row) for row in await list_keys(session, "", _MOST)]
        names = await federation_ids(session)
    return render(request, "keys.html", visit, keys=keys, created=created, roles=list(Role), federations=names)
