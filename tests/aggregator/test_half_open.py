"""Connections that are opened and say nothing: they keep nobody out, and do not stay. Real processes."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.fuzz.scene import TOKEN, Scene, scene_on
from tests.servers import free_port

from fedafd.rpc.channel import open_sync_channel
from fedafd.rpc.own_tls import internal_trust

SHELL_LIMIT, SILENT = 256, 300
"""What a shell gives in descriptors, made smaller; and more connections than that."""
LONGEST_SECONDS = 40.0
"""Until a silent connection is closed: 20 s, and what a busy machine takes."""


@pytest.fixture
def distillers_port() -> int:
    return free_port()


@pytest.fixture
def scene(redis_url: str, tmp_path: Path, distillers_port: int) -> Iterator[Scene]:
    """An aggregator that was started where a process has few descriptors, and may take more."""
    settings = {"FEDAFD_AGGREGATOR_INTERNAL_LISTEN": f"127.0.0.1:{distillers_port}"}
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (SHELL_LIMIT, hard))
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(scene_on(f"sqlite:///{tmp_path}/t.db", redis_url, tmp_path, settings=settings))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        yield opened


@pytest.mark.parametrize("whose", ["agents", "distillers"])
def test_silent_connections_keep_nobody_out_and_are_closed(scene: Scene, distillers_port: int, whose: str) -> None:
    """A stranger with no credential: 120 s each, and beyond the limit nobody else got in and the store was not written.

    The distillers' port speaks TLS, whose handshake never begins.
    """
    agents_port = int(scene.services.aggregator.rpartition(":")[2])
    port, trust = (agents_port, None) if whose == "agents" else (distillers_port, internal_trust(TOKEN))
    with ExitStack() as stack:
        began = time.monotonic()
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 10)) for _ in range(SILENT)]
        with open_sync_channel(f"127.0.0.1:{port}", trust) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            health.Check(health_pb2.HealthCheckRequest(), timeout=15, wait_for_ready=True)
        for each in silent:
            each.settimeout(max(0.1, LONGEST_SECONDS - (time.monotonic() - began)))
            while each.recv(1024):  # HTTP/2 begins with the server's settings
                pass
    assert "Too many open files" not in scene.aggregator.log.read_text(encoding="utf-8")
