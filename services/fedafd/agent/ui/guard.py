"""Who may ask: this machine's user, from the page itself.

Loopback alone is no answer. Another user of the machine can reach the port, any web page in the browser can send
requests to it, and one whose name is turned to 127.0.0.1 (DNS rebinding) could read the answers. So each request must
name this server as its host and carry the key that the start printed, as a cookie that the browser sends from this
page only; and what changes anything must come from a form of the page.

Browsers send a cookie to every port of a host, so also to a server of another user of this machine. But they do so
below the cookie's path alone. So everything lies below a path that nobody can guess, and the cookie with it: whoever
listens on another port gets neither, whatever that page makes the browser ask for.
"""

from __future__ import annotations

import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Guard"]

_SAFE = frozenset({"GET", "HEAD"})
_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # With no-referrer a browser would send its forms from the origin `null`.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """ASGI middleware. `hosts` are the values of the Host header that are this server; `root`, such as `/x7Fq`, is
    what every path but `/` itself begins with, and what is behind it the application sees."""

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str], key: str, cookie: str, root: str) -> None:
        self._app, self._hosts, self._key, self._cookie, self._root = app, hosts, key, cookie, root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        answer = self._answer(Request(scope))
        below = scope if answer is not None else {**scope, "root_path": self._root}
        await (answer or self._app)(below, receive, send_guarded)

    def _answer(self, request: Request) -> Response | None:
        """What is answered in place of the page; None for a request that may pass."""
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return PlainTextResponse("This page has another address.\n", 421)
        if request.method not in _SAFE and not _from_here(request.headers, hosts[0]):
            return PlainTextResponse("Only forms of this page may be sent here.\n", 403)
        given = request.query_params.get("key")
        if request.url.path == "/" and given is not None and request.method in _SAFE:
            return self._let_in(given)
        if not self._is_below(request.url.path) or not any(map(self._is_key, _cookies(request.headers, self._cookie))):
            return _locked()
        return None

    def _let_in(self, given: str) -> Response:
        if not self._is_key(given):
            return _locked()
        answer = RedirectResponse(f"{self._root}/", 303)
        answer.set_cookie(self._cookie, self._key, path=f"{self._root}/", httponly=True, samesite="strict")
        return answer

    def _is_key(self, given: str) -> bool:
        return _are_one(given, self._key)

    def _is_below(self, path: str) -> bool:
        first, behind, _ = path[1:].partition("/")
        return path.startswith("/") and bool(behind) and _are_one(f"/{first}", self._root)


def _are_one(given: str, kept: str) -> bool:
    return secrets.compare_digest(given.encode(errors="surrogateescape"), kept.encode())


def _from_here(headers: Headers, host: str) -> bool:
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    return origin in (None, f"http://{host}") and site in (None, "same-origin")


def _cookies(headers: Headers, name: str) -> list[str]:
    """All of that name: a server on another port of the host may have set one that the browser sends beside ours."""
    pairs = (pair.strip().partition("=") for line in headers.getlist("cookie") for pair in line.split(";"))
    return [value for given, _, value in pairs if given == name]


def _locked() -> Response:
    text = "Open the whole address that `fedafd agent ui` printed: it holds a key, and another one at each start.\n"
    return PlainTextResponse(text, 403)
