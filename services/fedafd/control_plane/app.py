"""The FastAPI application, and the entry of the control plane process."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import redis.asyncio
import uvicorn
from fastapi import FastAPI, Response
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from fedafd.control_plane import probes
from fedafd.control_plane.api_keys import endpoints as api_keys
from fedafd.control_plane.clients import endpoints as clients
from fedafd.control_plane.connections import Connections, HandshakesInTime, listeners
from fedafd.control_plane.context import Context, Wakeups
from fedafd.control_plane.dashboard.pages import add_dashboard
from fedafd.control_plane.dashboard.sessions import SessionSigner
from fedafd.control_plane.door import Addresses, Door, SecureHeaders
from fedafd.control_plane.drain import endpoints as drain
from fedafd.control_plane.events import endpoints as events
from fedafd.control_plane.failed_logins import FailedLogins
from fedafd.control_plane.federations import endpoints as federations
from fedafd.control_plane.limits import BodyLimit
from fedafd.control_plane.models import endpoints as models
from fedafd.control_plane.models import personalized_endpoints as personalized_models
from fedafd.control_plane.models import search_endpoints as model_search
from fedafd.control_plane.observed import Observed
from fedafd.control_plane.oidc.flow import Logins
from fedafd.control_plane.oidc.people import People
from fedafd.control_plane.openapi import describe, operation_id
from fedafd.control_plane.patience import PatientBody, PatientProtocol
from fedafd.control_plane.problems import add_problem_handlers
from fedafd.control_plane.public_sets import endpoints as public_sets
from fedafd.control_plane.queueing import Queueing
from fedafd.control_plane.rates import Rates
from fedafd.control_plane.rounds import endpoints as rounds
from fedafd.control_plane.settings import ControlPlaneSettings, load_settings
from fedafd.control_plane.status import endpoints as status
from fedafd.domain.errors import ConfigurationError, FedafdError
from fedafd.domain.proxies import is_off_machine
from fedafd.messaging.wakeups import WakeupPublisher, listen_for_wakeups
from fedafd.persistence.api_key_repository import ensure_admin_key
from fedafd.persistence.database import Database
from fedafd.persistence.idempotency_repository import forget_old_answers
from fedafd.persistence.login_repository import forget_ended_logins, session_secret
from fedafd.persistence.migrate import check_schema
from fedafd.storage import open_store
from fedafd.telemetry.allocator import give_memory_back
from fedafd.telemetry.descriptors import connections_for, take_descriptors
from fedafd.telemetry.ending import tell_end
from fedafd.telemetry.garbage import collect_seldom
from fedafd.telemetry.logging import configure, get_logger
from fedafd.telemetry.metrics import Metrics
from fedafd.telemetry.tracing import configure_tracing

__all__ = ["create_app", "main"]

_RESOURCES = (
    federations,
    public_sets,
    clients,
    rounds,
    models,
    model_search,
    personalized_models,
    events,
    api_keys,
    drain,
    status,
    probes,
)
_FORGET_SECONDS = 600.0
_FAILURES_SECONDS = 5.0
_GRACE_SECONDS = 5
_NOT_STARTED = 3
_log = get_logger(__name__)


def create_app(settings: ControlPlaneSettings) -> FastAPI:
    """The application; it connects when it starts, and refuses to on a database that is not migrated."""
    redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
    context = _context(settings, redis_url)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(context.database.close)
            await check_schema(context.database)
            await context.database.ping()
            async with context.database.transaction() as session:
                if key := settings.first_admin_key():
                    await ensure_admin_key(session, key)
                context.sessions.mix_in(await session_secret(session))
            stack.push_async_callback(context.key_uses.write, context.database)
            stack.push_async_callback(context.failed_logins.write, context.database)
            uses = context.key_uses.keep_writing(context.database)
            work = [_forget_what_ended(context), uses, _write_failures(context), context.database.keep_time()]
            if redis_url and context.redis:
                stack.push_async_callback(context.redis.aclose)
                work.append(listen_for_wakeups(redis_url, lambda change: context.wakeups.heard(change.federation)))
            for coroutine in work:
                stack.push_async_callback(_cancelled, asyncio.create_task(coroutine))
            yield

    app = FastAPI(
        title="FedAFD control plane",
        version="1",
        lifespan=lifespan,
        generate_unique_id_function=operation_id,
        openapi_url="/openapi.json" if settings.publish_docs else None,
        docs_url=None,
        redoc_url=None,
    )
    app.state.context = context
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    app.add_middleware(BodyLimit, shard_bytes=settings.max_shard_bytes)
    app.add_middleware(Door, context=context)
    app.add_middleware(Queueing, context=context)
    app.add_middleware(PatientBody, idle_seconds=settings.body_idle_seconds)
    add_problem_handlers(app)
    for resource in _RESOURCES:
        app.include_router(resource.router)
    add_dashboard(app, docs=settings.publish_docs)
    app.add_middleware(SecureHeaders)
    app.add_middleware(Observed, metrics=context.metrics)
    app.add_middleware(Addresses)
    app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=settings.trusted_proxies)
    if settings.publish_metrics:
        _add_metrics(app, context.metrics)
    return app


def _context(settings: ControlPlaneSettings, redis_url: str | None) -> Context:
    database = Database(settings.database_url.get_secret_value())
    publish = WakeupPublisher(redis_url).publish if redis_url else lambda _: None
    client = redis.asyncio.Redis.from_url(redis_url, socket_connect_timeout=2, socket_timeout=2) if redis_url else None
    rates = Rates(client)
    people = People(settings.oidc) if settings.oidc else None
    return Context(
        database=database,
        store=open_store(settings.store),
        redis=client,
        wakeups=Wakeups(publish),
        invitation_lifetime=timedelta(hours=settings.invitation_hours),
        name_authority=settings.name_authority,
        agents_address=settings.agents_address,
        idempotency_lifetime=timedelta(hours=settings.idempotency_hours),
        ticket_lifetime=timedelta(minutes=settings.ticket_minutes),
        sessions=SessionSigner(settings.first_admin_key()),
        rates=rates,
        people=people,
        logins=Logins(people) if people and people.settings.public_url else None,
        failed_logins=FailedLogins(settings.failed_logins_per_minute, rates),
        requests_per_minute=settings.requests_per_minute,
        streams_per_key=settings.streams_per_key,
        stream_poll_seconds=settings.stream_poll_seconds,
        stream_heartbeat_seconds=settings.stream_heartbeat_seconds,
    )


async def _forget_what_ended(context: Context) -> None:
    """Remembered answers past their lifetime, and logins that are over."""
    while True:
        try:
            async with context.database.transaction() as session:
                await forget_old_answers(session, context.idempotency_lifetime)
                await forget_ended_logins(session)
        except FedafdError as error:
            _log.warning("old_rows.not_forgotten", reason=str(error))
        await asyncio.sleep(_FORGET_SECONDS)


async def _write_failures(context: Context) -> None:
    while True:
        await asyncio.sleep(_FAILURES_SECONDS)
        await context.failed_logins.write(context.database)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _add_metrics(app: FastAPI, metrics: Metrics) -> None:
    text: dict[int | str, dict[str, Any]] = {
        200: {"description": "Prometheus's text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    }

    @app.get("/metrics", tags=["probes"], response_class=Response, responses=text)
    async def metrics_exposition() -> Response:
        """Prometheus metrics."""
        return Response(metrics.exposition(), media_type=metrics.content_type)


async def _check_database(settings: ControlPlaneSettings) -> None:
    database = Database(settings.database_url.get_secret_value())
    try:
        await check_schema(database)
    finally:
        await database.close()


def _listeners(settings: ControlPlaneSettings) -> list[socket.socket]:
    most = connections_for(take_descriptors())
    limits = Connections(most=most, of_an_address=settings.connections_per_address, trusted=settings.trusted_proxies)
    return listeners(settings.host, settings.port, limits)


def main() -> int:
    """Run the control plane; returns its exit code."""
    try:
        settings = load_settings()
        configure("control-plane", level=settings.log_level)
        configure_tracing("control-plane")
        app = create_app(settings)
        settings.first_admin_key()
        own_tls = settings.own_tls()
        asyncio.run(_check_database(settings))
        sockets = _listeners(settings)
    except ConfigurationError as error:
        tell_end("control-plane", error)
        return 2
    except FedafdError as error:
        tell_end("control-plane", error)
        return 1
    collect_seldom()
    give_memory_back()
    _log.info("control_plane.starting", host=settings.host, port=settings.port)
    if own_tls is None and is_off_machine(f"[{settings.host}]:1" if ":" in settings.host else f"{settings.host}:1"):
        _log.warning(
            "control_plane.plaintext",
            host=settings.host,
            reason="HTTP without TLS: API keys can be read on the way; set TLS_CERTIFICATE and TLS_KEY, or let only"
            " a proxy that ends TLS reach this port",
        )
    # uvicorn ends gracefully and then raises the signal again, which would end us by it instead of with exit code 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the application's own, which knows whom to trust
        http=PatientProtocol,
        ssl_context_factory=None if own_tls is None else lambda *_: own_tls.context(),
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    server = uvicorn.Server(config)
    with asyncio.Runner(loop_factory=HandshakesInTime) as runner:
        runner.run(server.serve(sockets))
    if not server.started:
        return _NOT_STARTED
    _log.info("control_plane.stopped")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
