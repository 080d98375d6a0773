"""What one client can try at once, each kind until its process is ended: what benchmarks.floods sends to services.

Every flood keeps so many calls open or on their way, and begins another one as soon as one ends.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import grpc.aio
import httpx
from google.protobuf.duration_pb2 import Duration

from fedafd.domain.secrets import SecretKind, new_secret
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.proto.v1 import types_pb2
from fedafd.proto.v1.aggregator_pb2_grpc import AggregatorServiceStub
from fedafd.rpc.credentials import bearer_metadata
from fedafd.rpc.sessions import session_metadata

__all__ = ["FLOODS", "OF_AGENTS", "Target", "flood"]

_CHUNK_BYTES = 1 << 20
_CALLS_OF_A_CONNECTION = 100
_SECONDS = 600.0
_OWN_LINE = (("grpc.use_local_subchannel_pool", 1),)


@dataclass(frozen=True)
class Target:
    """Where the services are, and whose credentials the flood has."""

    aggregator: str
    metadata: tuple[tuple[str, str], ...]
    round_id: str
    url: str
    api_key: str


class Event(Protocol):
    """Of a thread or of a process."""

    def set(self) -> None: ...


Try = Callable[[int], Awaitable[None]]


async def _long_polls(target: Target, stub: AggregatorServiceStub, number: int) -> None:
    known = (await stub.FetchTask(pb.FetchTaskRequest(), metadata=target.metadata)).revision
    await stub.FetchTask(pb.FetchTaskRequest(wait=Duration(seconds=60), known_revision=known), metadata=target.metadata)


async def _reports(target: Target, stub: AggregatorServiceStub, number: int) -> None:
    request = pb.ReportProgressRequest(round_id=target.round_id, fraction=number % 1000 / 1000)
    await stub.ReportProgress(request, metadata=target.metadata)


async def _commits(target: Target, stub: AggregatorServiceStub, number: int) -> None:
    """A chunk of another blob each time, and a commit of what is not complete."""
    content = number.to_bytes(8, "big") * (_CHUNK_BYTES // 8)
    sha256 = hashlib.sha256(content).hexdigest()
    begin = pb.BeginUploadRequest(
        round_id=target.round_id,
        upload_purpose=pb.UPLOAD_PURPOSE_REPRESENTATIONS,
        sha256=f"{number % 8:064x}",
        size_bytes=2 * len(content),
        chunk_size_bytes=len(content),
        chunk_sha256=[sha256, sha256],
    )
    begun = await stub.BeginUpload(begin, metadata=target.metadata)
    chunk = pb.UploadChunksRequest(upload_id=begun.upload_id, index=0, data=content)
    with suppress(grpc.aio.AioRpcError):
        await stub.UploadChunks(iter([chunk]), metadata=target.metadata)
    commit = pb.CommitUploadRequest(round_id=target.round_id, upload_ids=[begun.upload_id])
    await stub.CommitUpload(commit, metadata=target.metadata)


async def _guesses(target: Target, stub: AggregatorServiceStub, number: int) -> None:
    """Tokens and credentials of nobody's, in turn."""
    if number % 2:
        await stub.Enroll(pb.EnrollRequest(token=new_secret(SecretKind.ENROLMENT), kind=types_pb2.CLIENT_KIND_IMAGE))
    else:
        guessed = bearer_metadata(new_secret(SecretKind.CREDENTIAL))
        await stub.FetchTask(pb.FetchTaskRequest(), metadata=(*guessed, *session_metadata("0" * 16)))


async def _streams(target: Target, http: httpx.AsyncClient, number: int) -> None:
    headers = {"Authorization": f"Bearer {target.api_key}", "Accept": "text/event-stream"}
    async with http.stream("GET", "/v1/federations/floods/events", headers=headers) as answer:
        async for _ in answer.aiter_bytes():
            pass


async def _logins(target: Target, http: httpx.AsyncClient, number: int) -> None:
    await http.post("/login", data={"key": f"fedafd-key.guess-{number}"})


async def _ranges(target: Target, http: httpx.AsyncClient, number: int) -> None:
    odd = ("bytes=9999999999-", "bytes=-", "bytes=5-2", "bytes=0-1,3-4,6-", "lines=0-", "bytes=-0")[number % 6]
    headers = {"Authorization": f"Bearer {target.api_key}", "Range": odd}
    await http.get(
        f"/v1/federations/floods/models/1/{'archive' if number % 2 else 'files/config.json'}", headers=headers
    )


async def _slow_request(target: Target, number: int) -> None:
    """A byte of a header each second."""
    host, _, port = target.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(b"GET /v1/federations HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        while not reader.at_eof():
            writer.write(b"x")
            await writer.drain()
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await reader.read(1024)
    finally:
        writer.close()


FLOODS = {
    "long polls": (_long_polls, 600),
    "progress reports": (_reports, 600),
    "chunks and commits": (_commits, 64),
    "guesses": (_guesses, 600),
    "event streams": (_streams, 500),
    "failed logins": (_logins, 64),
    "odd ranges": (_ranges, 64),
    "slow requests": (_slow_request, 900),
}
"""By name: what is tried, and how often at once."""
OF_AGENTS = ("long polls", "progress reports", "chunks and commits", "guesses")


def flood(name: str, target: Target, at_once: int, begun: Event, seconds: float = _SECONDS) -> None:
    """Run in a process of its own, which is ended from outside, or after so long; says when it has begun."""
    with suppress(TimeoutError):
        asyncio.run(_flood(name, target, at_once, begun, seconds))


async def _flood(name: str, target: Target, at_once: int, begun: Event, seconds: float) -> None:
    numbers = itertools.count()
    attempt: Any = FLOODS[name][0]
    tries: list[Try] = []
    if name in OF_AGENTS:
        lines = [
            AggregatorServiceStub(grpc.aio.insecure_channel(target.aggregator, options=_OWN_LINE))
            for _ in range(-(-at_once // _CALLS_OF_A_CONNECTION))
        ]
        tries = [partial(attempt, target, line) for line in lines]
    elif attempt is _slow_request:
        tries = [lambda number: _slow_request(target, number)]
    else:
        limits = httpx.Limits(max_connections=at_once)
        http = httpx.AsyncClient(base_url=target.url, limits=limits, timeout=_SECONDS)
        tries = [lambda number: attempt(target, http, number)]
    begun.set()
    async with asyncio.timeout(seconds):
        await asyncio.gather(*(_again(tries[place % len(tries)], numbers) for place in range(at_once)))


async def _again(attempt: Try, numbers: itertools.count[int]) -> None:
    while True:
        with suppress(grpc.aio.AioRpcError, httpx.HTTPError, OSError):
            await attempt(next(numbers))
        await asyncio.sleep(0)
