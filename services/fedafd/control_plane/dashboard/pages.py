"""All pages of the dashboard."""

from __future__ import annotations

from fastapi import FastAPI

from fedafd.control_plane.dashboard import (
    access,
    benefit,
    configuration,
    events,
    home,
    keys,
    live,
    models,
    provider_login,
    rounds,
    sites,
    trying,
    versions,
)
from fedafd.control_plane.dashboard.assets import add_assets, add_docs

__all__ = ["add_dashboard"]

_PAGES = (
    access,
    provider_login,
    home,
    rounds,
    benefit,
    versions,
    models,
    trying,
    sites,
    configuration,
    events,
    keys,
    live,
)


def add_dashboard(app: FastAPI, *, docs: bool = True) -> None:
    """Serve the dashboard at the root of the control plane, with `docs` the API's page too."""
    add_assets(app)
    if docs:
        add_docs(app)
    for pages in _PAGES:
        app.include_router(pages.router)
