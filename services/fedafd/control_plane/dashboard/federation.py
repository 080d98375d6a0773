"""The frame of a federation's pages: which one it is, the way to its other pages, and its stream."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse

from fedafd.control_plane.dashboard.rendering import render
from fedafd.control_plane.dashboard.visits import Visit
from fedafd.persistence.models import FederationRow

__all__ = ["federation_page"]

_TABS = {
    "": "Rounds",
    "/benefit": "Does it help?",
    "/models": "Models",
    "/try": "Try the model",
    "/sites": "Sites",
    "/configuration": "Configuration",
    "/events": "Events",
}


def federation_page(
    request: Request,
    template: str,
    visit: Visit,
    owner: FederationRow,
    *,
    http_status: int = 200,
    is_live: bool = True,
    **values: Any,
) -> HTMLResponse:
    """A page of a federation."""
    base = f"/federations/{owner.id}"
    tabs = [(f"{base}{path}", words) for path, words in _TABS.items()]
    at = base + next((path for path in _TABS if path and request.url.path.startswith(base + path)), "")
    return render(
        request,
        template,
        visit,
        http_status=http_status,
        live=f"/live?federation={owner.id}" if is_live else "",
        owner=owner,
        base=base,
        tabs=tabs,
        at=at,
        **values,
    )
