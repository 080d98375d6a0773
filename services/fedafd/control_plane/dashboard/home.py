"""Home: what is wrong, what to do next, and every federation in a line."""

from __future__ import annotations

from fastapi import Request, Response

from fedafd.control_plane.context import ContextDep
from fedafd.control_plane.dashboard.rendering import render
from fedafd.control_plane.dashboard.routing import page_router
from fedafd.control_plane.dashboard.visits import Visitor
from fedafd.control_plane.status.facts import gather
from fedafd.control_plane.status.findings import decide

__all__ = ["router"]

router = page_router()


@router.get("/")
async def home(request: Request, context: ContextDep, visitor: Visitor) -> Response:
    """How everything is."""
    facts = await gather(context, visitor.caller.federations)
    return render(request, "home.html", visitor, live="/live", facts=facts, status=decide(facts))
