"""The floor: a bare gRPC server that sends as many bytes to each client and takes as many, hashed and written once."""

from __future__ import annotations

import asyncio
import hashlib
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc.aio

from benchmarks.light_sites import CHUNK_BYTES
from fedafd.local.supervisor import Child, Supervisor, free_port

__all__ = ["Floor"]

_SITES_OF_A_CONNECTION = 25
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 4 << 20))
_SERVICE = "fedafd.benchmarks.Floor"


class Floor:
    """The bare server, in a process of its own."""

    def __init__(self, supervisor: Supervisor, folder: Path) -> None:
        self._port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "benchmarks.round_overhead.floor", str(self._port), str(folder)]
        self.child: Child = supervisor.start("floor", command, {})

    async def exchange(self, clients: int, bytes_up: int, bytes_down: int) -> float:
        """Seconds until each client has got and sent its bytes, all at once."""
        async with AsyncExitStack() as stack:
            channels = []
            for _ in range(0, clients, _SITES_OF_A_CONNECTION):
                channel = grpc.aio.insecure_channel(f"127.0.0.1:{self._port}", options=_OPTIONS)
                channels.append(await stack.enter_async_context(channel))
            await asyncio.gather(*(channel.channel_ready() for channel in channels))
            ones = [channels[number // _SITES_OF_A_CONNECTION] for number in range(clients)]
            started = time.perf_counter()
            await asyncio.gather(*(_exchange(channel, bytes_up, bytes_down) for channel in ones))
            return time.perf_counter() - started


async def _exchange(channel: grpc.aio.Channel, bytes_up: int, bytes_down: int) -> None:
    down = channel.unary_stream(f"/{_SERVICE}/Down")  # type: ignore[call-arg]
    received = 0
    async for data in down(str(bytes_down).encode()):
        received += len(data)
    up = channel.stream_unary(f"/{_SERVICE}/Up")  # type: ignore[call-arg]
    answer = await up(_pieces(bytes_up))
    if received != bytes_down or len(answer) != hashlib.sha256().digest_size:
        raise AssertionError(f"{received} of {bytes_down} bytes came down")


def _pieces(size: int) -> Iterator[bytes]:
    piece = bytes(CHUNK_BYTES)
    for start in range(0, size, CHUNK_BYTES):
        yield piece[: size - start]


async def _serve(port: int, folder: Path) -> None:
    async def up(messages: AsyncIterator[bytes], _: Any) -> bytes:
        digest, path = hashlib.sha256(), folder / uuid.uuid4().hex
        with path.open("wb", buffering=0) as file:
            async for data in messages:
                digest.update(data)
                file.write(data)
        path.unlink()
        return digest.digest()

    async def down(request: bytes, _: Any) -> AsyncIterator[bytes]:
        for piece in _pieces(int(request)):
            yield piece

    server = grpc.aio.server(options=(*_OPTIONS, ("grpc.so_reuseport", 0)))
    handlers = {
        "Up": grpc.stream_unary_rpc_method_handler(up),
        "Down": grpc.unary_stream_rpc_method_handler(down),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), Path(sys.argv[2])))
