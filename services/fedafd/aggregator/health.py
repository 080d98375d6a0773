"""Standard gRPC health: SERVING only while database and object store really answer.

The service name `liveness` is SERVING for as long as the process answers at all: a supervisor should restart an
aggregator that hangs, not one whose database is away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer

from fedafd.aggregator.context import Context
from fedafd.persistence.clock import shared_clock, utc_now
from fedafd.rpc.clock import CLOCK_KEY
from fedafd.telemetry.logging import get_logger

__all__ = ["FOR_AGENTS", "FOR_DISTILLERS", "LIVENESS", "SERVICE_NAMES", "ClockedHealth", "watch_health"]

FOR_AGENTS, FOR_DISTILLERS = "fedafd.v1.AggregatorService", "fedafd.v1.DistillationService"
SERVICE_NAMES = (FOR_AGENTS, FOR_DISTILLERS)
LIVENESS = "liveness"
_DATABASE = "database:"
_ANSWER_SECONDS = 5
"""How long database and store have to answer."""
_log = get_logger(__name__)


class ClockedHealth(HealthServicer):  # type: ignore[misc]
    """Health that also tells the time, by which a site can check its clock before it joins."""

    async def Watch(self, _: Any, context: Any) -> AsyncIterator[Any]:
        """Refused, as the standard allows: who watches, and reads nothing, would hold up what the others are told."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "health is not watched here; ask Check every few seconds")
        yield

    async def Check(self, request: Any, context: Any) -> Any:
        """The standard answer, with this machine's clock in the trailing metadata."""
        context.set_trailing_metadata(((CLOCK_KEY, f"{time.time():.3f}"),))
        return await super().Check(request, context)


async def watch_health(context: Context, servicer: HealthServicer, seconds: float = 5.0) -> None:
    """Check the dependencies again and again; ends when cancelled."""
    await servicer.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
    while True:
        problem = await _problem(context)
        context.waiting.cut_off(problem.startswith(_DATABASE) and not context.database.is_sqlite)
        await _look_at_writes(context)
        if problem:
            _log.error("health.not_serving", reason=problem)
        context.metrics.healthy.set(0 if problem else 1)
        context.metrics.clock_skew.set(shared_clock.skew_seconds)
        if context.tell_skew is not None and shared_clock.differs:
            await asyncio.to_thread(context.tell_skew, shared_clock.skew_seconds, utc_now())
        answer = health_pb2.HealthCheckResponse
        status = answer.NOT_SERVING if problem else answer.SERVING
        for name in ("", *SERVICE_NAMES):
            await servicer.set(name, status)
        await asyncio.sleep(seconds)


async def _problem(context: Context) -> str:
    try:
        # To give a query up takes psycopg seconds more, where nothing answers.
        asking = asyncio.ensure_future(context.database.ping())
        asking.add_done_callback(lambda asked: asked.cancelled() or asked.exception())
        done, _ = await asyncio.wait((asking,), timeout=_ANSWER_SECONDS)
        if not done:
            asking.cancel()
            return f"{_DATABASE} no answer in {_ANSWER_SECONDS} s"
        asking.result()
    except Exception as error:
        return f"{_DATABASE} {error}"
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            await asyncio.to_thread(context.store.ping)
    except Exception as error:
        return f"object store: {error}"
    return ""


async def _look_at_writes(context: Context) -> None:
    """Sites wait for a store that is full; without an aggregator that serves they would not learn what for."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            await asyncio.to_thread(context.writes.check)
    except Exception as error:
        context.store_trouble[:] = [str(error) or f"the store did not answer a write within {_ANSWER_SECONDS} s"]
        _log.error("health.store_refuses_writes", reason=context.store_trouble[0])
    else:
        if context.store_trouble:
            _log.info("health.store_takes_writes_again")
        context.store_trouble.clear()
