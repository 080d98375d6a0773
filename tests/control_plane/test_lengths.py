"""Where a request ends is said once: what a proxy in front could read otherwise is refused, with its connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.control_plane.rest import Rest, listening, settings_for

from fedafd.storage import StoreSettings

SECOND = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
CASES = {
    "length and chunks": (b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"0\r\n\r\n"),
    "chunks and length": (b"Transfer-Encoding: chunked\r\nContent-Length: 5", b"0\r\n\r\n"),
    "two lengths": (b"Content-Length: 0\r\nContent-Length: 35", b""),
    "a list of lengths": (b"Content-Length: 0, 35", b""),
    "a negative length": (b"Content-Length: -1", b""),
    "a signed length": (b"Content-Length: +0", b""),
    "another coding": (b"Transfer-Encoding: xchunked", b""),
    "two codings": (b"Transfer-Encoding: chunked, identity", b"0\r\n\r\n"),
    "a space before the colon": (b"Transfer-Encoding : chunked", b"0\r\n\r\n"),
    "a zero in a header": (b"Content-Length: 0\r\nX-A: a\x00b", b""),
    "two hosts": (b"Host: y\r\nContent-Length: 0", b""),
}


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Rest]:
    settings = settings_for(f"sqlite:///{tmp_path}/x.db", StoreSettings(url=str(tmp_path / "store")))
    async with listening(settings) as rest:
        yield rest


async def answered(live: Rest, request: bytes) -> bytes:
    """All that comes back; the connection's end is waited for."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(live.url.rpartition(":")[2]))
    writer.write(request)
    found = b""
    with suppress(ConnectionError):
        async with asyncio.timeout(20):
            while piece := await reader.read(1 << 16):
                found += piece
    writer.close()
    return found


async def test_a_request_with_two_ends_is_refused_and_nothing_behind_it_is_read(live: Rest) -> None:
    for name, (lines, body) in CASES.items():
        request = b"PUT /v1/drain HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n\r\n" + body + SECOND
        answer = await answered(live, request)
        assert answer.startswith(b"HTTP/1.1 400"), name
        assert answer.count(b"HTTP/1.1") == 1, name
        assert b'"status"' not in answer, name


async def test_headers_of_60_kb_are_read_and_longer_ones_refused(live: Rest) -> None:
    for size, status in ((60_000, b"401"), (200_000, b"400")):
        for line in (b"Cookie: fedafd-session=", b"X-A: ", b"Authorization: Bearer "):
            head = b"GET /v1/federations HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            answer = await answered(live, head + line + b"a" * size + b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 " + status), (size, line)
            assert len(answer) < 2000
