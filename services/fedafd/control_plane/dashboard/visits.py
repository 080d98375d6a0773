"""Who visits a page: the caller of the session's key, or nobody, who is sent to the login; and whose form it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.datastructures import FormData, UploadFile

from fedafd.control_plane.callers import Caller, caller_of_key, caller_of_person, check_role, check_scope
from fedafd.control_plane.context import Context, ContextDep
from fedafd.control_plane.dashboard.sessions import Session
from fedafd.control_plane.login import count_request
from fedafd.domain.errors import ForbiddenError, UnauthenticatedError
from fedafd.domain.kinds import Role
from fedafd.persistence.api_key_repository import active_key
from fedafd.persistence.login_repository import has_ended
from fedafd.persistence.models import ApiKeyRow, utc_now

__all__ = [
    "AdminForm",
    "ConfigForm",
    "Form",
    "LoginNeededError",
    "OperatorForm",
    "PictureForm",
    "ViewerForm",
    "Visit",
    "Visitor",
    "check_origin",
    "cookie_name",
    "cookie_of",
    "visitor_of",
]


class LoginNeededError(UnauthenticatedError):
    """No session, or one that is over: the login comes first."""


class Visit:
    """A visitor with a session: who it is, and the token of its forms."""

    def __init__(self, caller: Caller, session: Session, form_token: str) -> None:
        self.caller, self.session, self.form_token = caller, session, form_token

    def may(self, role: str) -> bool:
        """Whether the visitor's role is this one or a higher one."""
        try:
            check_role(self.caller, Role(role))
        except ForbiddenError:
            return False
        return True

    @property
    def is_of_all(self) -> bool:
        """Whether the visitor's key is for all federations."""
        return self.caller.opens(None)


def cookie_name(request: Request) -> str:
    """Cookies do not tell ports apart, and a machine may serve two dashboards."""
    return f"fedafd-session-{request.url.port or 0}"


def cookie_of(request: Request, name: str) -> str:
    """The cookie of that name; empty where there is none."""
    try:
        cookie = SimpleCookie("; ".join(request.headers.getlist("cookie"))).get(name)
    except CookieError:
        return ""
    return "" if cookie is None else cookie.value


async def visitor_of(context: Context, session: AsyncSession, login: Session) -> Caller | None:
    """The caller of a session; None where it is over or was ended, its key is revoked, has expired, or has another
    secret, and where the settings of the identity provider are others than at a person's login.
    """
    if login.expires_at <= time.time():  # a stream goes on for longer than the request that its cookie came with
        return None
    if await has_ended(session, login.nonce):
        return None
    if login.person is not None:
        people = context.people
        if people is None or login.key_mark != people.mark:
            return None
        person = people.of_session(login.key_id, login.person)
        return None if person is None else caller_of_person(person)
    row = await active_key(session, login.key_id)
    used = (
        None
        if row is None
        else next((secret for secret in _secrets(row) if context.sessions.mark(secret) == login.key_mark), None)
    )
    if row is None or used is None:
        return None
    context.key_uses.note(row, used)
    return caller_of_key(row, "")


def _secrets(row: ApiKeyRow) -> list[str]:
    """Hashes of the secrets with which a session may have begun that still goes on."""
    overlaps = row.previous_hash and row.previous_until and row.previous_until > utc_now()
    return [row.key_hash, *([row.previous_hash] if overlaps and row.previous_hash else [])]


async def visit(request: Request, context: ContextDep) -> Visit:
    """The visitor. Raises LoginNeededError for nobody."""
    login = context.sessions.read(cookie_of(request, cookie_name(request)))
    if login is None:
        raise LoginNeededError("log in first")
    async with context.database.snapshot() as session:
        caller = await visitor_of(context, session, login)
    if caller is None:
        raise LoginNeededError("what this session began with is not good any more; log in anew")
    current = Visit(caller, login, context.sessions.form_token(login))
    request.state.visit = current
    await count_request(context, caller.id)
    if (federation := request.path_params.get("federation")) is not None:
        check_scope(caller, federation)
    return current


Visitor = Annotated[Visit, Depends(visit)]


class Form:
    """A form that a page of the visitor's own session sent."""

    def __init__(self, visit: Visit, fields: FormData) -> None:
        self.visit, self._fields = visit, fields

    @property
    def caller(self) -> Caller:
        """Who sent it."""
        return self.visit.caller

    def text(self, name: str) -> str:
        """A field's text without spaces around it; empty for one that is not there."""
        return (self.raw(name) or "").strip()

    def raw(self, name: str) -> str | None:
        """A field's text as it was written; None for one that is not there."""
        value = self._fields.get(name)
        return value if isinstance(value, str) else None

    async def file(self, name: str, most: int) -> bytes:
        """Up to `most` bytes of a file; empty for one that was not chosen."""
        value = self._fields.get(name)
        if not isinstance(value, UploadFile):
            return b""
        try:
            return await value.read(most)
        finally:
            await value.close()


def _form_of(role: Role, max_fields: int = 20, max_files: int = 0) -> Callable[..., object]:
    async def read(request: Request, context: ContextDep, visitor: Visitor) -> Form:
        check_origin(request)
        fields = await request.form(max_files=max_files, max_fields=max_fields)
        token = fields.get("token", "")
        if not isinstance(token, str) or not context.sessions.is_form_token(visitor.session, token):
            raise ForbiddenError("this form is not of a page of your session: open the page again, and send it anew")
        check_role(visitor.caller, role)
        return Form(visitor, fields)

    return read


ViewerForm = Annotated[Form, Depends(_form_of(Role.VIEWER))]
PictureForm = Annotated[Form, Depends(_form_of(Role.VIEWER, max_files=1))]
OperatorForm = Annotated[Form, Depends(_form_of(Role.OPERATOR))]
ConfigForm = Annotated[Form, Depends(_form_of(Role.OPERATOR, 400))]
"""One field for each key of a configuration."""
AdminForm = Annotated[Form, Depends(_form_of(Role.ADMIN))]


def check_origin(request: Request) -> None:
    """Raise ForbiddenError for a form that a page of somebody else's sends."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        fine = site in ("same-origin", "none")
    else:
        # A proxy may have put its own name into Host; no page can make a browser send the other header.
        hosts = {request.headers.get("host"), request.headers.get("x-forwarded-host")}
        fine = origin is None or urlsplit(origin).netloc in hosts
    if not fine:
        raise ForbiddenError("only pages of this dashboard may send forms here; open it, and send the form from there")
