"""Bytes that are no message are the caller's fault: it is told so, and no trace stands in the log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from tests.aggregator.world import INTERNAL, World, error_code

from fedafd.aggregator.server import make_server
from fedafd.proto.v1 import aggregator_pb2, distillation_pb2

METHODS = [
    method
    for module in (aggregator_pb2, distillation_pb2, health_pb2, reflection_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/test.db"


async def test_each_call_refuses_them_as_an_invalid_request(world: World, caplog: pytest.LogCaptureFixture) -> None:
    site = await world.enrol("site")
    server, _ = make_server(world.context)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            for method in METHODS:
                caller = INTERNAL if method.containing_service.name == "DistillationService" else site
                told = await _refusal(channel, method, caller)
                assert told.code() is grpc.StatusCode.INVALID_ARGUMENT, (method.full_name, told.code(), told.details())
                assert error_code(told) == "invalid-request", method.full_name
                assert "4 bytes are no message of this call" in (told.details() or "")
    finally:
        await server.stop(None)
    assert "Traceback" not in caplog.text


async def _refusal(channel: grpc.aio.Channel, method: Any, caller: tuple[tuple[str, str], ...]) -> grpc.aio.AioRpcError:
    kind = ("stream" if method.client_streaming else "unary") + ("_stream" if method.server_streaming else "_unary")
    stub = getattr(channel, kind)(f"/{method.containing_service.full_name}/{method.name}")
    answer = stub(iter([b"\xff" * 4]) if method.client_streaming else b"\xff" * 4, metadata=caller, timeout=20)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async for _ in answer if method.server_streaming else _once(answer):
            pass
    return raised.value


async def _once(answer: Any) -> Any:
    yield await answer
