"""A silent line is given up in the configured time, on either side; the way to this machine itself has no proxy."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from fedafd.rpc.channel import (
    CHANNEL_OPTIONS,
    KEEPALIVE_SECONDS,
    SERVER_OPTIONS,
    keepalive_options,
    open_channel,
    way_to,
)

QUICK = keepalive_options(1.0, 1.0)
BOUND_SECONDS = 20.0
"""Far below the 60 s that gRPC waits for a ping's answer by default, far above the 2 s that are asked for."""


@dataclass
class BlackHole:
    """A relay that from a moment on swallows every byte and closes nothing, as a firewall that forgot the line."""

    target: int
    silent: bool = False
    port: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        for source, sink in ((reader, back), (there, writer)):
            self._tasks.add(asyncio.create_task(self._pump(source, sink)))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(1 << 16):
                if not self.silent:
                    sink.write(data)
                    await sink.drain()
        if not self.silent:
            sink.close()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Watched(HealthServicer):  # type: ignore[misc]
    """A health service that tells when a watcher is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.gone = asyncio.Event()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: object) -> AsyncIterator[object]:
        try:
            yield health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
            await asyncio.Event().wait()
        finally:
            self.gone.set()


@contextlib.asynccontextmanager
async def relayed(*server_options: tuple[str, int | str]) -> AsyncIterator[tuple[Watched, BlackHole]]:
    server = grpc.aio.server(options=server_options)
    watched = Watched()
    health_pb2_grpc.add_HealthServicer_to_server(watched, server)
    hole = BlackHole(server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    front = await asyncio.start_server(hole.serve, "127.0.0.1", 0)
    hole.port = front.sockets[0].getsockname()[1]
    try:
        yield watched, hole
    finally:
        front.close()
        await hole.close()
        await server.stop(0)


async def test_a_client_gives_up_a_silent_line_in_its_time() -> None:
    async with (
        relayed() as (_, hole),
        grpc.aio.insecure_channel(f"127.0.0.1:{hole.port}", options=QUICK) as channel,
    ):
        call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        await call.read()
        hole.silent, began = True, time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            async with asyncio.timeout(BOUND_SECONDS):
                await call.read()
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert time.monotonic() - began < BOUND_SECONDS


async def test_a_server_gives_up_a_silent_line_in_its_time() -> None:
    async with relayed(*QUICK) as (watched, hole), grpc.aio.insecure_channel(f"127.0.0.1:{hole.port}") as channel:
        call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        await call.read()
        hole.silent = True
        async with asyncio.timeout(BOUND_SECONDS):
            await watched.gone.wait()
        call.cancel()


def test_agents_distillers_and_aggregators_keep_lines_by_the_same_times() -> None:
    wanted = set(keepalive_options(*KEEPALIVE_SECONDS))
    assert wanted <= set(CHANNEL_OPTIONS)
    assert wanted <= set(SERVER_OPTIONS)
    assert ("grpc.http2.ping_timeout_ms", 10_000) in wanted


@pytest.mark.parametrize("variable", ["http_proxy", "HTTPS_PROXY", "grpc_proxy"])
async def test_the_way_to_this_machine_goes_through_no_proxy(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    async with relayed() as (_, hole):
        for host in ("127.0.0.1", "localhost"):
            async with open_channel(f"{host}:{hole.port}") as channel:
                call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
                async with asyncio.timeout(BOUND_SECONDS):
                    await call.read()
                call.cancel()
            assert way_to(f"{host}:{hole.port}") == ""


@pytest.mark.parametrize("variable", ["http_proxy", "HTTPS_PROXY", "grpc_proxy"])
async def test_the_way_elsewhere_goes_through_the_proxy(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    asked: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.close()

    front = await asyncio.start_server(proxy, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{front.sockets[0].getsockname()[1]}"
    monkeypatch.setenv(variable, url)
    async with open_channel("aggregator.invalid:7443") as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    front.close()
    assert asked[0].startswith(b"CONNECT aggregator.invalid:7443 ")
    assert f"through the proxy {url} ({variable})" in way_to("aggregator.invalid:7443")


def test_a_proxy_that_grpc_cannot_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "socks5://p:1")
    assert "gRPC does not go through the proxy socks5://p:1 (all_proxy)" in way_to("aggregator.invalid:7443")
