"""Around every request: it is counted and timed, its log events say what they are about, and its trace goes on."""

from __future__ import annotations

import re
from time import perf_counter
from typing import TYPE_CHECKING

from fedafd.telemetry.logging import bind_context
from fedafd.telemetry.metrics import Metrics
from fedafd.telemetry.tracing import span, traceparent_in

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["QUERY_OUTCOMES", "ControlPlaneMetrics", "Observed"]

QUERY_OUTCOMES = ("ready", "preparing", "refused", "unanswered", "busy", "failed")
"""Of a query: answered; its version is made ready; wrong by itself; no worker; too many wait; anything else."""

_QUIET = frozenset({"/metrics", "/healthz", "/readyz"})
_ABOUT = re.compile(
    r"^/v1/federations/(?P<federation>[^/]+)(?:/rounds/(?P<round>[0-9]{1,10})(?![^/])|/clients/(?P<client>[^/]+))?"
)


class ControlPlaneMetrics(Metrics):
    """Requests by method, route and status; their seconds; how many run."""

    def __init__(self) -> None:
        super().__init__("control_plane")
        self.requests = self.counter("requests", "Requests by method, route and status.", ("method", "route", "status"))
        self.request_seconds = self.histogram("request_seconds", "Until the answer begins.", ("method", "route"))
        self.requests_in_flight = self.gauge("requests_in_flight", "Requests that are being answered.")
        self.queries = self.counter("queries", "Queries to model versions, by what became of them.", ("outcome",))
        for outcome in QUERY_OUTCOMES:
            self.queries.labels(outcome=outcome)


class Observed:
    """ASGI middleware. The route's pattern is the label, never the path, so that labels stay few."""

    def __init__(self, app: ASGIApp, metrics: ControlPlaneMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _QUIET:
            await self._app(scope, receive, send)
            return
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        path_match = _ABOUT.match(scope["path"])
        about = path_match.groupdict() if path_match else {}
        number = about.get("round")
        with (
            bind_context(
                federation=about.get("federation"),
                round_number=int(number) if number else None,
                client=about.get("client"),
            ),
            span(f"http.{scope['method']}", parent=traceparent_in(headers), kind="SERVER", path=scope["path"]),
            self._metrics.requests_in_flight.track_inprogress(),
        ):
            await self._counted(scope, receive, send)

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()
        status = 500

        async def observing(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                labels = {"method": scope["method"], "route": _route(scope)}
                self._metrics.request_seconds.labels(**labels).observe(perf_counter() - started)
            await send(message)

        try:
            await self._app(scope, receive, observing)
        finally:
            labels = {"method": scope["method"], "route": _route(scope), "status": str(status)}
            self._metrics.requests.labels(**labels).inc()


def _route(scope: Scope) -> str:
    return str(getattr(scope.get("route"), "path", "unknown"))
