"""Files that pages load: our own, and Swagger UI's from the wheel that carries it; and the API's own page."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from fedafd.control_plane.dashboard.rendering import render

__all__ = ["add_assets", "add_docs"]

_OWN = Path(__file__).parent / "static"
_DOCS_POLICY = (
    "default-src 'none'; connect-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'"
)
"""Swagger UI writes styles into its page."""


class _Files(StaticFiles):
    """Kept by browsers, and asked for anew each time: an upgrade shows at once."""

    def file_response(self, full_path: str | os.PathLike[str], *args: Any, **options: Any) -> Response:
        answer = super().file_response(full_path, *args, **options)
        answer.headers["Cache-Control"] = "no-cache"
        return answer


def add_assets(app: FastAPI) -> None:
    """Serve the files of our own."""
    app.mount("/static", _Files(directory=_OWN), name="static")


def add_docs(app: FastAPI) -> None:
    """Serve the API's page at /docs, and its files."""
    app.mount("/docs/assets", _Files(directory=_swagger_ui()), name="swagger-ui")

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        answer = render(request, "docs.html", None)
        answer.headers.update({"Content-Security-Policy": _DOCS_POLICY, "Referrer-Policy": "no-referrer"})
        return answer

    @app.get("/redoc", include_in_schema=False)
    async def redoc() -> Response:
        return RedirectResponse("/docs")


def _swagger_ui() -> Path:
    """Where the package fastapi-offline has its files; importing it is not needed."""
    spec = importlib.util.find_spec("fastapi_offline")
    assert spec is not None, "fastapi-offline is a dependency of the control plane"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "static"
