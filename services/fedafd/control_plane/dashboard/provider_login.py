"""Login by the identity provider: away to it, and back from it."""

from __future__ import annotations

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from fedafd.control_plane.callers import Caller, caller_of_person
from fedafd.control_plane.context import Context, ContextDep
from fedafd.control_plane.dashboard.access import is_secure, login_answer, own_path, set_session
from fedafd.control_plane.dashboard.rendering import render
from fedafd.control_plane.dashboard.routing import page_router
from fedafd.control_plane.dashboard.visits import cookie_of
from fedafd.control_plane.login import count_request
from fedafd.control_plane.oidc.flow import LOGIN_SECONDS, Begun, Logins
from fedafd.control_plane.oidc.people import People, Person
from fedafd.domain.errors import FedafdError, NotFoundError, UnauthenticatedError
from fedafd.persistence.event_repository import record_event
from fedafd.telemetry.logging import get_logger

__all__ = ["router"]

router = page_router()

_PATH = "/login/oidc"
_KIND = "login"
_log = get_logger(__name__)


@router.get(_PATH)
async def begin(request: Request, context: ContextDep, next: str = "/") -> Response:
    """Go to the provider."""
    try:
        begun, address = await _logins(context).begin(own_path(next))
    except FedafdError as error:
        return login_answer(request, context, error, next)
    answer = RedirectResponse(address, 303)
    sealed = context.sessions.seal(_KIND, begun.text())
    # Lax, not strict: the provider's answer comes from another site, and has to bring it.
    answer.set_cookie(
        _cookie_name(request),
        sealed,
        max_age=LOGIN_SECONDS,
        path=_PATH,
        httponly=True,
        samesite="lax",
        secure=is_secure(request),
    )
    return answer


@router.get(f"{_PATH}/callback")
async def end(
    request: Request,
    context: ContextDep,
    state: str = "",
    code: str = "",
    iss: str | None = None,
    error: str = "",
) -> Response:
    """Come back from the provider."""
    text = context.sessions.unseal(_KIND, cookie_of(request, _cookie_name(request)))
    begun = None if text is None else Begun.of_text(text)
    back = begun.back if begun is not None else "/"
    try:
        person = await _end(request, context, begun, (state, code, iss, error))
    except FedafdError as problem:
        _log.info("login.refused", reason=str(problem))
        answer = login_answer(request, context, problem, back)
    else:
        # A page, and no redirect: a browser that comes from another site sends no strict cookie along a redirect.
        answer = render(request, "logged_in.html", None, next=back)
        await _begin_session(request, context, person, answer)
    answer.delete_cookie(_cookie_name(request), path=_PATH, httponly=True, samesite="lax")
    return answer


async def _end(
    request: Request, context: Context, begun: Begun | None, answered: tuple[str, str, str | None, str]
) -> Person:
    state, code, issuer, error = answered
    address = request.client.host if request.client else "unknown"
    tried = f"{_KIND} {code or state}"
    await context.failed_logins.check(address, tried)
    try:
        person = await _logins(context).end(begun, state, code, issuer, error)
    except UnauthenticatedError:
        await context.failed_logins.failed(address, tried, None)
        raise
    await count_request(context, person.id)
    await _note(context, person, caller_of_person(person))
    return person


async def _note(context: Context, person: Person, caller: Caller) -> None:
    """The entry that says whom the short name in later ones means."""
    only = None if person.federations is None else sorted(person.federations)
    about = {"subject": person.subject, "person": person.id, "role": person.role, "federations": only}
    async with context.database.transaction() as session:
        record_event(session, "login.succeeded", federation_id=None, actor=caller.actor, **about)


async def _begin_session(request: Request, context: Context, person: Person, answer: Response) -> None:
    people = _people(context)
    seconds = people.settings.session_minutes * 60
    session = context.sessions.begin_of_person(person.id, people.mark, people.for_session(person), seconds)
    set_session(request, answer, context.sessions.cookie(session), int(seconds))


def _people(context: Context) -> People:
    if context.people is None:
        raise NotFoundError("this control plane has no identity provider; log in with an API key")
    return context.people


def _logins(context: Context) -> Logins:
    if context.logins is None:
        raise NotFoundError("this dashboard has no login by an identity provider; log in with an API key")
    return context.logins


def _cookie_name(request: Request) -> str:
    return f"fedafd-login-{request.url.port or 0}"
