"""A federation's model versions, and the forms that promote one or go back."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request, Response

from fedafd.control_plane.context import ContextDep
from fedafd.control_plane.dashboard.federation import federation_page
from fedafd.control_plane.dashboard.routing import page_router, see
from fedafd.control_plane.dashboard.visits import OperatorForm, Visitor
from fedafd.control_plane.models import service
from fedafd.control_plane.models.downloads import archive_response
from fedafd.control_plane.models.reads import ModelRead
from fedafd.control_plane.names import FederationName, RoundNumber
from fedafd.control_plane.paging import MAX_INTEGER
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.model_repository import find_version, get_version, newest_versions, pulled_files

__all__ = ["router"]

router = page_router()

_PAGE = 25
_SHOWN = ("rsum", "i2t_r1", "t2i_r1")
"""All recalls stand on the round's page."""


@router.get("/federations/{federation}/models")
async def models_page(
    request: Request,
    federation: FederationName,
    context: ContextDep,
    visitor: Visitor,
    before: Annotated[int | None, Query(ge=1, le=MAX_INTEGER)] = None,
) -> Response:
    """The versions, newest first, each with its difference to the current one."""
    async with context.database.snapshot() as session:
        owner = await get_federation(session, federation)
        current = await find_version(session, federation, owner.current_version)
        rows = await newest_versions(session, federation, before, _PAGE + 1)
        parent = None if current is None else await find_version(session, federation, current.parent_version)
    return federation_page(
        request,
        "models.html",
        visitor,
        owner,
        versions=rows[:_PAGE],
        current=current,
        back_to=parent if parent is not None and parent.state_removed_at is None else None,
        names=_SHOWN,
        older=rows[_PAGE - 1].version if len(rows) > _PAGE else None,
        is_first=before is None,
    )


@router.get("/federations/{federation}/models/{version}/archive")
async def model_archive(
    request: Request, federation: FederationName, version: RoundNumber, context: ContextDep, visitor: Visitor
) -> Response:
    """The version's folder as a tar."""
    async with context.database.snapshot() as session:
        row = await get_version(session, federation, version)
        files = await pulled_files(session, federation, row)
    read = ModelRead(visitor.caller, federation, None, version, "(archive)")
    await context.model_reads.audit(context.database, read)
    return await archive_response(request, context.objects, files, f"{federation}-{version}")


@router.post("/federations/{federation}/models/{version}/promote")
async def promote(
    federation: FederationName, version: RoundNumber, context: ContextDep, form: OperatorForm
) -> Response:
    """Make a version the current one."""
    async with context.database.transaction() as session:
        await service.promote(session, federation, version, form.caller.actor)
    context.wakeups.changed(federation)
    return see(f"/federations/{federation}/models")


@router.post("/federations/{federation}/models/rollback")
async def roll_back(federation: FederationName, context: ContextDep, form: OperatorForm) -> Response:
    """Go back to the version that the current one was trained from."""
    async with context.database.transaction() as session:
        await service.roll_back(session, federation, form.caller.actor)
    context.wakeups.changed(federation)
    return see(f"/federations/{federation}/models")
