"""`fedafd health` tells the truth about HTTP and gRPC processes, in its exit code."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from grpc_health.v1 import health_pb2
from tests.servers import free_port
from typer.testing import CliRunner

from fedafd.aggregator.context import Context
from fedafd.aggregator.health import LIVENESS, watch_health
from fedafd.aggregator.server import make_server
from fedafd.cli.main import app
from fedafd.persistence.database import Database
from fedafd.storage.folder import FolderStore


def ask(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["health", *arguments])
    return result.exit_code, result.output + str(result.exception or "")


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_http_status_decides(status: int, code: int) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"database: away")

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        exit_code, text = ask(f"http://127.0.0.1:{server.server_port}/readyz")
        server.shutdown()
    assert exit_code == code
    assert str(status) in text


@pytest.fixture
async def aggregator(tmp_path: Path) -> AsyncIterator[tuple[str, Path]]:
    """An aggregator's server whose object store is a folder; its address and that folder."""
    store = tmp_path / "store"
    database = Database(f"sqlite:///{tmp_path}/health.db")
    context = Context(database, FolderStore(store), "token")
    server, servicer = make_server(context)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    watching = asyncio.ensure_future(watch_health(context, servicer, seconds=0.05))
    yield f"grpc://127.0.0.1:{port}", store
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    await server.stop(None)
    await database.close()


async def test_a_serving_aggregator_is_healthy(aggregator: tuple[str, Path]) -> None:
    address, _ = aggregator
    code, text = await asyncio.to_thread(ask, address)
    assert (code, "SERVING" in text) == (0, True)


async def test_without_its_store_an_aggregator_lives_but_is_not_healthy(aggregator: tuple[str, Path]) -> None:
    address, store = aggregator
    store.rename(store.with_name("away"))
    store.write_text("a file where the folder was")
    for _ in range(200):
        code, text = await asyncio.to_thread(ask, address)
        if code:
            break
        await asyncio.sleep(0.05)
    assert (code, "NOT_SERVING" in text) == (1, True)
    assert (await asyncio.to_thread(ask, f"{address}/{LIVENESS}"))[0] == 0


async def test_the_watch_ends_when_it_is_cancelled_at_whatever_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(f"sqlite:///{tmp_path}/health.db")
    context = Context(database, FolderStore(tmp_path / "store"), "token")
    _, servicer = make_server(context)
    watching = asyncio.ensure_future(watch_health(context, servicer, seconds=0.01))

    async def ping_and_cancel(_: Database) -> None:
        # The cancellation comes between the end of this and the moment at which who waits for it goes on.
        asyncio.get_running_loop().call_soon(watching.cancel)

    monkeypatch.setattr(Database, "ping", ping_and_cancel)
    done, _ = await asyncio.wait((watching,), timeout=20)
    assert done
    assert watching.cancelled()
    await database.close()


def test_nobody_there_is_not_healthy() -> None:
    port = free_port()
    assert ask(f"http://127.0.0.1:{port}/readyz")[0] == 1
    code, text = ask(f"grpc://127.0.0.1:{port}", "--timeout", "0.5")
    assert (code, f"127.0.0.1:{port}" in text) == (1, True)


@pytest.mark.parametrize("url", ["127.0.0.1:7443", "grpc://host", "ftp://host:21", "grpc://[::1", "http://[::1"])
def test_other_addresses_are_refused_with_an_example(url: str) -> None:
    code, text = ask(url)
    assert (code, "grpc://127.0.0.1:7443" in text) == (1, True)


async def test_an_ipv6_address_keeps_its_brackets(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/health.db")
    server, servicer = make_server(Context(database, FolderStore(tmp_path / "store"), "token"))
    port = server.add_insecure_port("[::1]:0")
    await server.start()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    exit_code, text = await asyncio.to_thread(ask, f"grpc://[::1]:{port}")
    await server.stop(None)
    await database.close()
    assert (exit_code, text.strip()) == (0, f"[::1]:{port}: SERVING")


@pytest.mark.parametrize("url", ["grpc://127.0.0.1:99999", "http://127.0.0.1:99999/readyz", "grpc://h", "grpc://h:0"])
def test_a_port_that_there_is_not_is_told(url: str) -> None:
    exit_code, text = ask(url)
    assert exit_code != 0
    assert url in text
    assert "port" in text.lower()
