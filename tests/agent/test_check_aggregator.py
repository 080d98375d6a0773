"""What a site learns of its aggregator without a credential: that it answers, its certificate, its clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.certificates import Authority
from tests.servers import free_port

from fedafd.agent.check_aggregator import check_aggregator
from fedafd.agent.exit_codes import ExitCode
from fedafd.agent.findings import Finding, Level
from fedafd.aggregator.context import Context
from fedafd.aggregator.server import make_server
from fedafd.domain.config import parse_agent_config
from fedafd.persistence.database import Database
from fedafd.rpc.clock import CLOCK_KEY
from fedafd.rpc.tls import server_credentials
from fedafd.storage.folder import FolderStore


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    def __init__(self, skew_seconds: float = 0.0, status: int = health_pb2.HealthCheckResponse.SERVING) -> None:
        self._skew, self._status = skew_seconds, status

    def Check(self, request: Any, context: Any) -> Any:
        context.set_trailing_metadata(((CLOCK_KEY, f"{time.time() + self._skew:.3f}"),))
        return health_pb2.HealthCheckResponse(status=self._status)


@contextmanager
def serving(servicer: Health | None, credentials: grpc.ServerCredentials | None = None) -> Any:
    server = grpc.server(ThreadPoolExecutor(2))
    if servicer is not None:
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    if credentials is None:
        port = server.add_insecure_port("localhost:0")
    else:
        port = server.add_secure_port("localhost:0", credentials)
    server.start()
    try:
        yield f"localhost:{port}"
    finally:
        server.stop(0)


def told(address: str, **tls: Any) -> list[Finding]:
    values: dict[str, Any] = {"aggregator": address, "kind": "image", "data": {"adapter": "shapes"}}
    return check_aggregator(parse_agent_config(values | ({"tls": tls} if tls else {})), seconds=5)


def ask(address: str, **tls: Any) -> dict[str, Finding]:
    return {each.about: each for each in told(address, **tls)}


def test_an_aggregator_that_serves_is_fine() -> None:
    with serving(Health()) as address:
        found = ask(address)
    assert {about: each.level for about, each in found.items()} == {"aggregator": Level.FINE, "clock": Level.FINE}


def test_one_that_cannot_serve_now_is_a_warning() -> None:
    with serving(Health(status=health_pb2.HealthCheckResponse.NOT_SERVING)) as address:
        assert ask(address)["aggregator"].level is Level.WARNING


def test_one_without_health_still_answers() -> None:
    with serving(None) as address:
        assert ask(address)["aggregator"].level is Level.FINE


def test_nobody_there_is_its_own_exit_code() -> None:
    found = ask(f"localhost:{free_port()}")["aggregator"]
    assert (found.level, found.exit_code) == (Level.ERROR, ExitCode.UNREACHABLE)
    assert "nothing listens there" in found.text


@pytest.mark.parametrize(("skew", "words"), [(600.0, "600 s behind"), (-600.0, "600 s before")])
def test_clocks_that_differ_are_told_with_the_side(skew: float, words: str) -> None:
    with serving(Health(skew)) as address:
        found = ask(address)["clock"]
    assert found.level is Level.WARNING
    assert words in found.text


@pytest.mark.parametrize(("days", "level"), [(5, Level.WARNING), (300, Level.FINE)])
def test_the_end_of_a_certificate_is_told(tmp_path: Path, days: int, level: Level) -> None:
    authority = Authority(tmp_path, "ours")
    certificate, key = authority.issue("server", days=days)
    with serving(Health(), server_credentials(certificate, key)) as address:
        found = ask(address, authorities=str(authority.file))
    assert found["aggregator"].level is Level.FINE
    assert found["TLS"].level is level
    assert f"{days - 1} days" in found["TLS"].text


def test_a_client_certificate_is_shown_where_it_is_asked_for(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ours")
    certificate, key = authority.issue("server", days=100)
    mine = authority.issue("site", days=100)
    old = authority.issue("old", days=-1)
    soon = authority.issue("soon", days=3)
    with serving(Health(), server_credentials(certificate, key, authority.file)) as address:
        shown = ask(address, authorities=str(authority.file), certificate=str(mine[0]), key=str(mine[1]))
        without = ask(address, authorities=str(authority.file))
        expired = told(address, authorities=str(authority.file), certificate=str(old[0]), key=str(old[1]))
        ending = told(address, authorities=str(authority.file), certificate=str(soon[0]), key=str(soon[1]))
    assert shown["aggregator"].level is Level.FINE
    assert shown["TLS"].level is Level.FINE
    assert without["aggregator"].exit_code is ExitCode.UNREACHABLE
    assert any(each.level is Level.ERROR and "old.pem has expired; renew it" in each.text for each in expired)
    (warned,) = [each.text for each in ending if each.level is Level.WARNING]
    assert warned.startswith("your certificate is valid until") and "2 days from now; renew it" in warned


def untrusted(folder: Path) -> dict[str, Any]:
    return {"authorities": str(Authority(folder, "others").file)}


def missing(folder: Path) -> dict[str, Any]:
    return {"authorities": str(folder / "nowhere.pem")}


@pytest.mark.parametrize(
    ("tls", "code", "words"),
    [(untrusted, ExitCode.UNREACHABLE, "not signed by an authority"), (missing, ExitCode.CONFIGURATION, "nowhere.pem")],
)
def test_tls_that_cannot_work_says_why(
    tmp_path: Path, tls: Callable[[Path], dict[str, Any]], code: ExitCode, words: str
) -> None:
    certificate, key = Authority(tmp_path, "ours").issue("server")
    with serving(Health(), server_credentials(certificate, key)) as address:
        found = ask(address, **tls(tmp_path))
    (wrong,) = [each for each in found.values() if each.level is Level.ERROR]
    assert wrong.exit_code is code
    assert words in wrong.text


def test_an_open_line_to_elsewhere_is_a_warning() -> None:
    values = {"aggregator": f"127.0.0.2:{free_port()}", "kind": "image", "data": {"adapter": "shapes"}}
    found = {each.about: each.level for each in check_aggregator(parse_agent_config(values), seconds=2)}
    assert found["TLS"] is Level.WARNING


@pytest.fixture
async def real_aggregator(tmp_path: Path) -> AsyncIterator[str]:
    database = Database(f"sqlite:///{tmp_path}/health.db")
    server, _ = make_server(Context(database, FolderStore(tmp_path / "store"), "token"))
    port = server.add_insecure_port("localhost:0")
    await server.start()
    yield f"localhost:{port}"
    await server.stop(0)
    await database.close()


async def test_a_real_aggregator_tells_its_time(real_aggregator: str) -> None:
    found = await asyncio.to_thread(ask, real_aggregator)
    assert found["clock"].level is Level.FINE
