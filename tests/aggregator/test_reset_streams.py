"""Streams that are opened and reset at once, thousands of them on one line, leave nothing behind."""

from __future__ import annotations

import asyncio
import struct

from tests.aggregator.world import World

from fedafd.aggregator.server import make_server
from fedafd.proto.v1 import aggregator_pb2 as pb

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS = 0, 1, 3, 4
_END_STREAM, _END_HEADERS, _CANCEL = 1, 4, 8
_STREAMS = 10_000


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2 (RFC 9113, 4.1)."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name: str, value: str) -> bytes:
    """A header that enters no table (RFC 7541, 6.2.2)."""
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


async def test_ten_thousand_streams_that_are_reset_at_once_hold_up_nobody_and_leave_nothing(world: World) -> None:
    server, _ = make_server(world.context)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    caller = await world.enrol("north")
    await world.agents.FetchTask(pb.FetchTaskRequest(), metadata=caller)
    before = len(asyncio.all_tasks())
    said = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/fedafd.v1.AggregatorService/FetchTask"),
        (":authority", "aggregator"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *caller,
    ]
    headers = b"".join(literal(name, value) for name, value in said)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_PREFACE + frame(_SETTINGS, 0, 0))
    try:
        for stream in range(1, 2 * _STREAMS, 2):
            writer.write(
                frame(_HEADERS, _END_HEADERS, stream, headers)
                + frame(_DATA, _END_STREAM, stream, bytes(5))
                + frame(_RESET, 0, stream, struct.pack(">I", _CANCEL))
            )
            if stream % 1000 == 1:
                await writer.drain()
                await world.agents.FetchTask(pb.FetchTaskRequest(), metadata=caller, timeout=30)
    except ConnectionError:
        pass  # gRPC may cut the line of who does that
    await world.agents.FetchTask(pb.FetchTaskRequest(), metadata=caller, timeout=30)
    writer.close()
    for _ in range(100):
        if len(asyncio.all_tasks()) <= before + 5:
            break
        await asyncio.sleep(0.1)
    assert len(asyncio.all_tasks()) <= before + 5, "calls that were reset go on"
    assert (await world.agents.FetchTask(pb.FetchTaskRequest(), metadata=caller, timeout=30)).HasField("idle")
    await server.stop(None)
