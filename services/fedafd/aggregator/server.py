"""Entry of the aggregator process: gRPC, coordinator, health, metrics; stops gracefully on SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta

import grpc.aio
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from fedafd.aggregator.agent_service import AgentService
from fedafd.aggregator.arrivals import remove_left_scratch
from fedafd.aggregator.authority import open_authority
from fedafd.aggregator.context import Context
from fedafd.aggregator.coordinator import Coordinator
from fedafd.aggregator.direct_uploads import DirectUploads
from fedafd.aggregator.distillation_service import DistillationService
from fedafd.aggregator.health import FOR_AGENTS, FOR_DISTILLERS, SERVICE_NAMES, ClockedHealth, watch_health
from fedafd.aggregator.interceptor import ErrorInterceptor
from fedafd.aggregator.listening import bind, bind_health, bind_internal, watch_expiry
from fedafd.aggregator.outbox import Outbox
from fedafd.aggregator.round_tracking import RoundTracking, track_rounds
from fedafd.aggregator.round_watch import watch_rounds
from fedafd.aggregator.settings import AggregatorSettings, load_settings
from fedafd.aggregator.survey import watch_federations
from fedafd.aggregator.sweeping import sweep_rounds
from fedafd.aggregator.types import Interceptor
from fedafd.aggregator.wakeups import Wakeups
from fedafd.domain.addresses import split_address
from fedafd.domain.errors import FedafdError
from fedafd.domain.kinds import FOLDS_TOGETHER
from fedafd.messaging.broker_memory import BrokerMemory
from fedafd.messaging.celery_app import make_celery, send_stage
from fedafd.messaging.clock_skews import SkewTeller
from fedafd.messaging.presence import PresenceWriter
from fedafd.messaging.queue_depth import QueueDepth
from fedafd.messaging.wakeups import WakeupPublisher, listen_for_wakeups
from fedafd.persistence.database import Database
from fedafd.persistence.migrate import check_schema
from fedafd.proto.v1.aggregator_pb2_grpc import add_AggregatorServiceServicer_to_server
from fedafd.proto.v1.distillation_pb2_grpc import add_DistillationServiceServicer_to_server
from fedafd.rpc.authority import Authority
from fedafd.rpc.channel import SERVER_OPTIONS
from fedafd.storage import open_store, open_store_for_sites
from fedafd.telemetry.allocator import give_memory_back
from fedafd.telemetry.descriptors import connections_for, take_descriptors
from fedafd.telemetry.ending import end_within, tell_end
from fedafd.telemetry.garbage import collect_seldom
from fedafd.telemetry.logging import configure, get_logger
from fedafd.telemetry.metrics import start_metrics_server
from fedafd.telemetry.tracing import configure_tracing
from fedafd.tracking.trackers import check_trackers

__all__ = ["HARD_END_SECONDS", "main", "make_server", "serve"]

HARD_END_SECONDS = 4.0
"""After the grace a process that still waits for a hung database or broker is ended."""
_log = get_logger(__name__)


def make_server(context: Context, interceptors: Sequence[Interceptor] = ()) -> tuple[grpc.aio.Server, HealthServicer]:
    """A server with all services on it, not bound to an address yet; `interceptors` come around ours."""
    servicer = ClockedHealth()
    return _make_server(context, SERVICE_NAMES, servicer, interceptors), servicer


def _make_server(
    context: Context, services: Sequence[str], servicer: HealthServicer, interceptors: Sequence[Interceptor] = ()
) -> grpc.aio.Server:
    """A server with these of our services, and health."""
    server = grpc.aio.server(
        interceptors=[*interceptors, ErrorInterceptor(context)],
        # Of a listener: beyond that the store and the database would find no file descriptor.
        options=(*SERVER_OPTIONS, ("grpc.max_allowed_incoming_connections", connections_for(take_descriptors()))),
    )
    if FOR_AGENTS in services:
        add_AggregatorServiceServicer_to_server(AgentService(context), server)
    if FOR_DISTILLERS in services:
        add_DistillationServiceServicer_to_server(DistillationService(context), server)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return server


def _direct_uploads(settings: AggregatorSettings) -> DirectUploads:
    url = settings.store_for_sites
    return DirectUploads(None if url is None else open_store_for_sites(settings.store, url))


async def serve(settings: AggregatorSettings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set. Raises ConfigurationError when the address cannot be bound."""
    check_trackers(settings.tracking, "FEDAFD_AGGREGATOR_TRACKING")
    async with AsyncExitStack() as stack:
        redis_url = settings.redis_url.get_secret_value()
        publisher = WakeupPublisher(redis_url)
        wakeups = Wakeups(publisher.publish)
        database = Database(settings.database_url.get_secret_value())
        stack.push_async_callback(database.close)
        await check_schema(database)
        await database.ping()
        await asyncio.to_thread(remove_left_scratch)
        authority = await open_authority(database, settings)
        context = Context(
            database,
            open_store(settings.store),
            settings.internal_token.get_secret_value(),
            wakeups,
            stage_lease=timedelta(seconds=settings.stage_lease_seconds),
            session_lease=timedelta(seconds=settings.session_lease_seconds),
            seen=PresenceWriter(redis_url).seen,
            tell_skew=SkewTeller(redis_url, f"the aggregator {socket.gethostname()} ({settings.listen})").tell,
            authority=authority,
            certificate_lifetime=timedelta(days=settings.client_certificate_days),
            bound_only=settings.require_client_keys,
            direct=_direct_uploads(settings),
        )
        stack.push_async_callback(context.progress.close)
        stack.push_async_callback(context.renewals.close)
        watch_expiry(context.metrics, settings, authority)
        if settings.metrics_listen:
            host, port = split_address(settings.metrics_listen)
            stack.enter_context(start_metrics_server(context.metrics.metrics, host, port))
        servers, servicer = _listening(context, settings, authority)
        celery = make_celery(redis_url)
        queue = QueueDepth(redis_url)
        outbox = Outbox(
            database,
            lambda kind, stage_id: send_stage(celery, kind, stage_id),
            memory=BrokerMemory(redis_url),
            waiting=queue.look,
            folds_together=FOLDS_TOGETHER,
        )
        coordinator = Coordinator(
            context, outbox, lease_seconds=settings.lease_seconds, poll_seconds=settings.poll_seconds
        )
        for server in servers:
            await server.start()
            stack.push_async_callback(server.stop, settings.shutdown_grace_seconds)
        coordinating = asyncio.ensure_future(coordinator.run())
        stack.push_async_callback(_finished, coordinating, settings.shutdown_grace_seconds)
        survey = watch_federations(context, coordinator, queue)
        await stack.enter_async_context(
            _background(watch_health(context, servicer), survey, sweep_rounds(context, coordinator))
        )
        listening = listen_for_wakeups(redis_url, wakeups.heard, but=publisher.origin, connected=wakeups.wake)
        await stack.enter_async_context(_background(listening, watch_rounds(context)))
        if settings.tracking:
            tracking = RoundTracking(context, settings.tracking, settings.tracking_folder.absolute())
            await stack.enter_async_context(_background(track_rounds(tracking, coordinator)))
        _log.info("aggregator.started", listen=settings.listen)
        await stop.wait()
        # Finish what runs, take nothing new: load balancers look elsewhere, long polls are answered, another aggregator
        # coordinates, and calls that have begun are brought to their end.
        await servicer.enter_graceful_shutdown()
        context.drain()
        _log.info("aggregator.draining", grace_seconds=settings.shutdown_grace_seconds)
    _log.info("aggregator.stopped")


def _listening(
    context: Context, settings: AggregatorSettings, authority: Authority
) -> tuple[list[grpc.aio.Server], HealthServicer]:
    """The servers, each bound to its address. Raises ConfigurationError."""
    servicer, apart = ClockedHealth(), settings.internal_listen is not None
    servers = [_make_server(context, (FOR_AGENTS,) if apart else SERVICE_NAMES, servicer)]
    bind(servers[0], settings, authority)
    if settings.internal_listen is not None:
        servers.append(_make_server(context, (FOR_DISTILLERS,), servicer))
        bind_internal(servers[-1], settings, settings.internal_listen)
    if settings.health_listen is not None:
        servers.append(_make_server(context, (), servicer))
        bind_health(servers[-1], settings.health_listen)
    return servers, servicer


@asynccontextmanager
async def _background(*work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(coroutine) for coroutine in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


async def _finished(task: asyncio.Future[None], seconds: float) -> None:
    _, late = await asyncio.wait((task,), timeout=seconds)
    for unfinished in late:
        unfinished.cancel()
    with suppress(asyncio.CancelledError):
        await task


def main() -> int:
    """Run the aggregator; returns its exit code."""
    try:
        settings = load_settings()
        configure("aggregator", level=settings.log_level)
        configure_tracing("aggregator")
        collect_seldom()
        give_memory_back()
        asyncio.run(_serve_until_signal(settings))
    except FedafdError as error:
        tell_end("aggregator", error)
        return 2
    return 0


async def _serve_until_signal(settings: AggregatorSettings) -> None:
    stop = asyncio.Event()

    def end() -> None:
        if not stop.is_set():
            end_within(settings.shutdown_grace_seconds + HARD_END_SECONDS)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end)
    await serve(settings, stop)


if __name__ == "__main__":
    raise SystemExit(main())
