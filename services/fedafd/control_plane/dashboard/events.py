"""A federation's audit log, newest first."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request, Response

from fedafd.control_plane.context import ContextDep
from fedafd.control_plane.dashboard.federation import federation_page
from fedafd.control_plane.dashboard.routing import page_router
from fedafd.control_plane.dashboard.visits import Visitor
from fedafd.control_plane.names import FederationName
from fedafd.persistence.event_repository import newest_events
from fedafd.persistence.federation_repository import get_federation

__all__ = ["router"]

router = page_router()

_PAGE = 100
_LARGEST_ID = 2**63 - 1


@router.get("/federations/{federation}/events")
async def events_page(
    request: Request,
    federation: FederationName,
    context: ContextDep,
    visitor: Visitor,
    before: Annotated[int | None, Query(ge=1, le=_LARGEST_ID)] = None,
) -> Response:
    """What happened."""
    async with context.database.snapshot() as session:
        owner = await get_federation(session, federation)
        rows = await newest_events(session, federation, before, _PAGE + 1)
    return federation_page(
        request,
        "events.html",
        visitor,
        owner,
        events=rows[:_PAGE],
        older=rows[_PAGE - 1].id if len(rows) > _PAGE else None,
        is_first=before is None,
    )
