"""Requests that break off or break the protocol halfway: a stranger's, and so nothing that fills the log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from fastapi.responses import StreamingResponse
from tests.control_plane.rest import Rest, listening, settings_for

from fedafd.storage import StoreSettings

FORM = "Content-Type: application/x-www-form-urlencoded"


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Rest]:
    async with listening(
        settings_for(f"sqlite:///{tmp_path}/x.db", StoreSettings(url=str(tmp_path / "store")))
    ) as rest:
        yield rest


async def _sent(live: Rest, path: str, *lines: str, body: bytes, first: bytes = b"") -> bytes:
    """Sent, the body when `first` has come; what comes back until nothing does for a while and the line is cut."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(live.url.rpartition(":")[2]))
    key = live.http.headers["authorization"]
    writer.write("\r\n".join([f"POST {path} HTTP/1.1", "Host: x", f"Authorization: {key}", *lines, "", ""]).encode())
    found = await asyncio.wait_for(reader.readexactly(len(first)), 20)
    writer.write(body)
    with suppress(TimeoutError):
        async with asyncio.timeout(1):
            while piece := await reader.read(1 << 16):
                found += piece
    writer.close()
    return found


@pytest.mark.parametrize("path", ["/login", "/v1/federations", "/v1/drain"])
@pytest.mark.parametrize(
    ("line", "body"),
    [
        ("Transfer-Encoding: chunked", b"zz\r\n"),
        ("Transfer-Encoding: chunked", b"5\r\nab"),
        ("Content-Length: 9", b"a"),
    ],
    ids=["no chunk", "half a chunk", "half a body"],
)
async def test_a_body_that_breaks_off_leaves_no_trace_in_the_log(
    live: Rest, path: str, line: str, body: bytes, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = await _sent(live, path, FORM, line, body=body)
    assert answer == b"" or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 405"))
    assert (await live.http.get("/federations")).status_code == 200
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert "Traceback" not in capsys.readouterr().out


async def test_a_request_that_breaks_while_it_is_answered_leaves_no_trace(
    live: Rest, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    async def slow() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0.02)

    live.app.add_api_route("/v1/slow", lambda: StreamingResponse(slow()), methods=["POST"])
    answer = await _sent(live, "/v1/slow", "Transfer-Encoding: chunked", body=b"zz\r\n", first=b"HTTP/1.1 200")
    assert answer.startswith(b"HTTP/1.1 200")
    assert (await live.http.get("/federations")).status_code == 200
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert "Traceback" not in capsys.readouterr().out
