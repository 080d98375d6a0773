"""What a site may send ahead of what the aggregator has read stays in the aggregator's memory: about a chunk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from fedafd.rpc.channel import SERVER_OPTIONS, open_channel

_CHUNK = bytes(1 << 20)


@asynccontextmanager
async def receiving(hold: asyncio.Event) -> AsyncIterator[str]:
    """A server whose method `all` reads what comes, and whose method `first` reads nothing after the first message."""

    async def read_all(messages: AsyncIterator[bytes], _: Any) -> bytes:
        async for _message in messages:
            pass
        return b""

    async def read_first(messages: AsyncIterator[bytes], _: Any) -> bytes:
        await anext(messages)
        await hold.wait()
        return b""

    server = grpc.aio.server(options=SERVER_OPTIONS)
    methods = {
        "all": grpc.stream_unary_rpc_method_handler(read_all),
        "first": grpc.stream_unary_rpc_method_handler(read_first),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        hold.set()
        await server.stop(None)


def stream_of(channel: grpc.aio.Channel, method: str) -> grpc.aio.StreamUnaryCall[bytes, bytes]:
    call: Any = channel.stream_unary
    stream: grpc.aio.StreamUnaryCall[bytes, bytes] = call(f"/test/{method}")()
    return stream


async def test_a_site_on_a_fast_line_cannot_fill_the_memory_ahead_of_what_is_read() -> None:
    async with receiving(asyncio.Event()) as address, open_channel(address) as channel:
        fast = stream_of(channel, "all")
        for _ in range(64):  # so long a stream shows gRPC how fast the line is
            await fast.write(_CHUNK)
        await fast.done_writing()
        await fast
        slow, sent = stream_of(channel, "first"), 0
        while sent < 64:
            try:
                async with asyncio.timeout(3):
                    await slow.write(_CHUNK)
            except TimeoutError:
                break
            sent += 1
        slow.cancel()
    assert sent <= 4
