"""Login and logout."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import urlsplit

from fastapi import Request, Response

from fedafd.control_plane.client_proofs import Shown
from fedafd.control_plane.context import Context, ContextDep
from fedafd.control_plane.dashboard.rendering import render
from fedafd.control_plane.dashboard.routing import page_router, see
from fedafd.control_plane.dashboard.sessions import SESSION_SECONDS
from fedafd.control_plane.dashboard.visits import ViewerForm, check_origin, cookie_name
from fedafd.control_plane.login import log_in as caller_of
from fedafd.domain.errors import ERROR_STATUS, FedafdError, ForbiddenError, TooManyRequestsError, UnauthenticatedError
from fedafd.domain.secrets import hash_secret
from fedafd.persistence.login_repository import end_login

__all__ = ["is_secure", "login_answer", "own_path", "router", "set_session"]

router = page_router()


@router.get("/login")
async def login_page(request: Request, context: ContextDep, next: str = "/") -> Response:
    """The login."""
    return _login_page(request, context, next)


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
        return login_answer(request, context, error, back)
    answer = see(own_path(back))
    set_session(request, answer, cookie, SESSION_SECONDS)
    return answer


@router.post("/logout")
async def log_out(request: Request, form: ViewerForm, context: ContextDep) -> Response:
    """End the session, for whoever has a copy of its cookie, too."""
    ended = form.visit.session
    async with context.database.transaction() as session:
        await end_login(session, ended.nonce, datetime.fromtimestamp(ended.expires_at, UTC))
    answer = see("/login")
    answer.delete_cookie(cookie_name(request), httponly=True, samesite="strict")
    return answer


async def _begin(context: Context, key: str, address: str) -> str:
    if not key or not key.isascii() or len(key) > 500:
        raise UnauthenticatedError("give an API key; an admin makes one with `fedafd key create`")
    caller = await caller_of(context, key, address, Shown.nothing())
    if caller.client is not None:
        raise ForbiddenError("this is a site's credential; the dashboard takes API keys of people")
    return context.sessions.cookie(context.sessions.begin(caller.id, hash_secret(key)))


def login_answer(request: Request, context: Context, error: FedafdError, back: str) -> Response:
    """The login once more, with what was wrong."""
    status = next(ERROR_STATUS[kind].http for kind in type(error).__mro__ if kind in ERROR_STATUS)
    return _login_page(request, context, back, str(error), 401 if status == 403 else status)


def set_session(request: Request, answer: Response, cookie: str, seconds: int) -> None:
    """Give the browser its session."""
    name, secure = cookie_name(request), is_secure(request)
    answer.set_cookie(name, cookie, max_age=seconds, httponly=True, samesite="strict", secure=secure)


def is_secure(request: Request) -> bool:
    """Whether the browser came by TLS, to here or to a proxy in front."""
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))


def _login_page(request: Request, context: Context, back: str, problem: str = "", status: int = 200) -> Response:
    named = urlsplit(context.people.settings.issuer).hostname if context.people and context.logins else None
    return render(request, "login.html", None, http_status=status, next=own_path(back), problem=problem, provider=named)


def own_path(path: str) -> str:
    """A path of this dashboard, and never another site."""
    plain = path.isascii() and path.isprintable() and "\\" not in path and len(path) < 500
    return path if plain and path.startswith("/") and not path.startswith("//") else "/"
