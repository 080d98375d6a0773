"""Routes of the dashboard: what goes wrong becomes a page, and whoever has no session comes to the login."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from fedafd.control_plane.dashboard.rendering import render_error
from fedafd.control_plane.dashboard.visits import LoginNeededError
from fedafd.domain.errors import ERROR_STATUS, FedafdError
from fedafd.telemetry.logging import get_logger

__all__ = ["page_router", "see"]

_log = get_logger(__name__)


class _Page(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def page(request: Request) -> Response:
            try:
                return await handler(request)
            except LoginNeededError:
                back = request.url.path if request.method == "GET" else "/"
                return see("/login" if back in ("/", "/logout") else f"/login?next={quote(back)}")
            except FedafdError as error:
                status = next(ERROR_STATUS[kind].http for kind in type(error).__mro__ if kind in ERROR_STATUS)
                return render_error(request, status, str(error))
            except RequestValidationError as error:
                words = "; ".join(
                    f"{'.'.join(map(str, problem['loc'][1:]))}: {problem['msg']}" for problem in error.errors()[:5]
                )
                return render_error(request, 422, words[:1000])
            except ClientDisconnect:
                return render_error(request, 408, "The request did not come to its end.")
            except HTTPException as error:
                return render_error(request, error.status_code, str(error.detail))
            except Exception as error:
                _log.error("page.failed", path=request.url.path, exc_info=error)
                return render_error(request, 500, "Something went wrong here; the control plane's log says more.")

        return page


def page_router() -> APIRouter:
    """A router of pages, which OpenAPI does not tell of."""
    return APIRouter(route_class=_Page, include_in_schema=False)


def see(path: str) -> RedirectResponse:
    """Look there next, as after a form."""
    return RedirectResponse(path, 303)
