"""A federation's configuration as a form: each key with its meaning, checked, compared with what runs, then saved."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response

from fedafd.control_plane.context import Context, ContextDep
from fedafd.control_plane.dashboard.config_form import Checked, checked, sections
from fedafd.control_plane.dashboard.federation import federation_page
from fedafd.control_plane.dashboard.routing import page_router, see
from fedafd.control_plane.dashboard.visits import ConfigForm, Visit, Visitor
from fedafd.control_plane.federations import service
from fedafd.control_plane.names import FederationName
from fedafd.domain.config.differences import differences
from fedafd.domain.errors import ConfigurationError, ConflictError, InvalidRequestError
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.models import FederationRow

__all__ = ["router"]

router = page_router()


@router.get("/federations/{federation}/configuration")
async def configuration_page(
    request: Request, federation: FederationName, context: ContextDep, visitor: Visitor
) -> Response:
    """What runs, key by key; for an operator, to be changed."""
    async with context.database.snapshot() as session:
        owner = await get_federation(session, federation)
    return _page(request, visitor, owner, Checked(owner.config))


@router.post("/federations/{federation}/configuration")
async def change_configuration(
    request: Request, federation: FederationName, context: ContextDep, form: ConfigForm
) -> Response:
    """Check what was written and show what it changes; save it where that was seen before."""
    async with context.database.snapshot() as session:
        owner = await get_federation(session, federation)
    checked_form = checked(owner.config, form.raw, _fixed(owner))
    if checked_form.problems or form.text("do") != "save" or form.text("seen") != checked_form.digest:
        return _page(request, form.visit, owner, checked_form, status=422 if checked_form.problems else 200)
    try:
        await _save(context, owner, checked_form.values, form.text("version"), form.caller.actor)
    except (ConfigurationError, ConflictError, InvalidRequestError) as error:
        checked_form.problems[""] = str(error)
        return _page(request, form.visit, owner, checked_form, status=409)
    context.wakeups.changed(federation)
    return see(f"/federations/{federation}/configuration")


async def _save(context: Context, owner: FederationRow, values: dict[str, Any], version: str, actor: str) -> None:
    """`version` is that of the configuration which the form was made of."""
    seen = int(version) if version.isascii() and version.isdigit() and len(version) < 10 else 0
    async with context.database.transaction() as session:
        await service.change_config(session, owner.id, values, seen, actor)


def _fixed(owner: FederationRow) -> tuple[str, ...]:
    """Blocks and keys that cannot change any more."""
    return ("name", "preset", "strategy", *(service.SHAPES_THE_MODEL if owner.current_version is not None else ()))


def _page(request: Request, visit: Visit, owner: FederationRow, form: Checked, status: int = 200) -> Response:
    return federation_page(
        request,
        "configuration.html",
        visit,
        owner,
        http_status=status,
        is_live=False,
        sections=sections(form, _fixed(owner)),
        problems=form.problems,
        changes=[] if form.problems else differences(owner.config, form.values),
        asked=request.method == "POST",
        seen=form.digest,
    )
