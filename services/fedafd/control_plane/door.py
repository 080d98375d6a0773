"""Before anything of a request is read: from where it comes, and below /v1 who sends it. Around answers: headers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi.security.utils import get_authorization_scheme_param
from starlette.datastructures import Headers, MutableHeaders

from fedafd.control_plane.client_proofs import Shown
from fedafd.control_plane.login import log_in
from fedafd.control_plane.problems import problem_of
from fedafd.domain.errors import FedafdError, UnauthenticatedError
from fedafd.persistence.caller_address import asked_from
from fedafd.rpc.proofs import PROOF_KEY

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from fedafd.control_plane.callers import Caller
    from fedafd.control_plane.context import Context

__all__ = ["Addresses", "Door", "SecureHeaders"]

_NOTHING = "default-src 'none'; frame-ancestors 'none'"


class Addresses:
    """ASGI middleware: what a request does stands in the audit log with the address that it comes from."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with asked_from((scope.get("client") or (None,))[0]):
            await self._app(scope, receive, send)


class Door:
    """ASGI middleware: a request below /v1 goes on with its caller, or is refused before its body is read."""

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self._app = app
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/v1/"):
            try:
                scope.setdefault("state", {})["caller"] = await self._caller(scope)
            except FedafdError as error:
                await problem_of(error, close=True)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _caller(self, scope: Scope) -> Caller:
        headers = Headers(scope=scope)
        scheme, secret = get_authorization_scheme_param(headers.get("authorization"))
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret:
            raise UnauthenticatedError("no API key; send the header `Authorization: Bearer <key>`")
        shown = Shown(headers.get(PROOF_KEY), f"{scope['method']} {scope['path']}")
        return await log_in(self._context, secret, (scope.get("client") or ("unknown",))[0], shown)


class SecureHeaders:
    """ASGI middleware. A route's own headers win."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def adding(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("X-Frame-Options", "DENY")
                headers.setdefault("Referrer-Policy", "no-referrer")
                headers.setdefault("Cache-Control", "no-store")
                headers.setdefault("Content-Security-Policy", _NOTHING)
            await send(message)

        await self._app(scope, receive, adding if scope["type"] == "http" else send)
