"""Login and logout."""

from __future__ import annotations

from fastapi import Request, Response

from fedafd.control_plane.context import Context, ContextDep
from fedafd.control_plane.dashboard.rendering import render
from fedafd.control_plane.dashboard.routing import page_router, see
from fedafd.control_plane.dashboard.sessions import SESSION_SECONDS
from fedafd.control_plane.dashboard.visits import ViewerForm, check_origin, cookie_name
from fedafd.control_plane.login import log_in as caller_of
from fedafd.domain.errors import ForbiddenError, TooManyRequestsError, UnauthenticatedError
from fedafd.domain.secrets import hash_secret

__all__ = ["router"]

router = page_router()


@router.get("/login")
async def login_page(request: Request, next: str = "/") -> Response:
    """The login."""
    return render(request, "login.html", None, next=_own(next), problem="")


@router.post("/login")
async def log_in(request: Request, context: ContextDep) -> Response:
    """Begin a session with an API key."""
    check_origin(request)
    fields = await request.form(max_files=0, max_fields=5)
    key, back = (value if isinstance(value, str) else "" for value in (fields.get("key", ""), fields.get("next", "/")))
    address = request.client.host if request.client else "unknown"
    try:
        cookie = await _begin(context, key.strip(), address)
    except (UnauthenticatedError, ForbiddenError, TooManyRequestsError) as error:
        status = 429 if isinstance(error, TooManyRequestsError) else 401
        return render(request, "login.html", None, http_status=status, next=_own(back), problem=str(error))
    answer = see(_own(back))
    secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
    name = cookie_name(request)
    answer.set_cookie(name, cookie, max_age=SESSION_SECONDS, httponly=True, samesite="strict", secure=secure)
    return answer


@router.post("/logout")
async def log_out(request: Request, _: ViewerForm) -> Response:
    """End the session of this browser."""
    answer = see("/login")
    answer.delete_cookie(cookie_name(request), httponly=True, samesite="strict")
    return answer


async def _begin(context: Context, key: str, address: str) -> str:
    if not key or not key.isascii() or len(key) > 500:
        raise UnauthenticatedError("give an API key; an admin makes one with `fedafd key create`")
    caller = await caller_of(context, key, address)
    if caller.client is not None:
        raise ForbiddenError("this is a site's credential; the dashboard takes API keys of people")
    return context.sessions.cookie(context.sessions.begin(caller.id, hash_secret(key)))


def _own(path: str) -> str:
    """A path of this dashboard, and never another site."""
    plain = path.isascii() and path.isprintable() and "\\" not in path and len(path) < 500
    return path if plain and path.startswith("/") and not path.startswith("//") else "/"
