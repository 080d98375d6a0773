"""Calls that come while the process is busy wait until they are taken up; gRPC would end them after 30 s by itself."""

from __future__ import annotations

import asyncio
import threading
import time

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from fedafd.rpc.channel import SERVER_OPTIONS

BUSY_SECONDS = 2.5
PATIENCE = "grpc.server_max_unrequested_time_in_server"
OPTIONS = dict(SERVER_OPTIONS)


def codes_of_calls_to_a_busy_server(patience_seconds: int) -> list[grpc.StatusCode]:
    """Of calls that come at once to an event loop that is busy, and what became of them."""
    loop, ready, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    ports: list[int] = []

    async def serve() -> None:
        server = grpc.aio.server(options=list((OPTIONS | {PATIENCE: patience_seconds}).items()))
        health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(), server)
        ports.append(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        ready.set()
        await stop.wait()
        await server.stop(None)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(10)
        with grpc.insecure_channel(f"127.0.0.1:{ports[0]}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            stub.Check(health_pb2.HealthCheckRequest())
            loop.call_soon_threadsafe(time.sleep, BUSY_SECONDS)
            calls = [stub.Check.future(health_pb2.HealthCheckRequest(), timeout=30) for _ in range(5)]
            return [call.code() for call in calls]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def test_a_busy_aggregator_cancels_no_call_that_waits_for_it() -> None:
    assert set(codes_of_calls_to_a_busy_server(int(OPTIONS[PATIENCE]))) == {grpc.StatusCode.OK}
    assert int(OPTIONS[PATIENCE]) >= 60  # the default is 30: half of a long poll


def test_without_patience_grpc_cancels_what_waits() -> None:
    assert grpc.StatusCode.CANCELLED in codes_of_calls_to_a_busy_server(1)
