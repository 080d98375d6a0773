"""Around every request: whose it is, so far as that can be told without the database, and its turn among those.

A caller is an API key or a person that opened something lately, or whose session the dashboard's cookie is; for whoever
has shown neither, an address. An event stream leaves its turn when it begins: streams are counted for themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi.security.utils import get_authorization_scheme_param
from starlette.datastructures import Headers
from starlette.requests import Request

from fedafd.control_plane.dashboard.visits import cookie_name, cookie_of
from fedafd.control_plane.failed_logins import network_of
from fedafd.control_plane.problems import problem_of
from fedafd.control_plane.turns import AT_ONCE, Turn
from fedafd.domain.errors import TooManyRequestsError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from fedafd.control_plane.context import Context

__all__ = ["Queueing"]

_OF_AN_ADDRESS = 8
"""At once: many people may come from one, as behind a proxy."""
_PROBES = frozenset({"/healthz", "/readyz", "/metrics"})


class Queueing:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self._app = app
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        caller, at_once = self._caller(scope)
        try:
            async with self._context.turns.of(caller, at_once) as turn:
                await self._app(scope, _asking(receive, turn), _answering(noting, turn))
        except TooManyRequestsError as error:
            if started:
                raise
            await problem_of(error, close=True)(scope, receive, send)

    def _caller(self, scope: Scope) -> tuple[str, int]:
        """Whose line the request stands in, and how many of that are worked on at once."""
        address = network_of((scope.get("client") or ("unknown",))[0])
        if scope["path"] in _PROBES:
            return f"probe:{address}", AT_ONCE
        known = self._of_key(scope) if scope["path"].startswith("/v1/") else self._of_session(scope)
        return (known, AT_ONCE) if known else (f"address:{address}", _OF_AN_ADDRESS)

    def _of_key(self, scope: Scope) -> str | None:
        scheme, secret = get_authorization_scheme_param(Headers(scope=scope).get("authorization"))
        return self._context.failed_logins.known(secret.strip()) if scheme.lower() == "bearer" else None

    def _of_session(self, scope: Scope) -> str | None:
        request = Request(scope)
        login = self._context.sessions.read(cookie_of(request, cookie_name(request)))
        return None if login is None else login.key_id


def _asking(receive: Receive, turn: Turn) -> Receive:
    is_whole = False

    async def asking() -> Message:
        nonlocal is_whole
        if is_whole:  # what is waited for now is the caller going away, beside the work
            return await receive()
        turn.leave()
        message = await receive()
        await turn.take()
        is_whole = not message.get("more_body", False)
        return message

    return asking


def _answering(send: Send, turn: Turn) -> Send:
    async def answering(message: Message) -> None:
        kind = Headers(raw=message["headers"]).get("content-type", "") if "headers" in message else ""
        if kind.startswith("text/event-stream"):
            turn.end()
        if not message.get("more_body", False):
            await send(message)
            return
        turn.leave()
        await send(message)
        await turn.take()

    return answering
