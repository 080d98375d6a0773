"""TLS with real certificates between real processes' own parts: who is let in, and what is said to who is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.certificates import Authority
from tests.servers import free_port
from typer.testing import CliRunner

from fedafd.agent.connection import AggregatorConnection
from fedafd.aggregator.server import serve
from fedafd.aggregator.settings import AggregatorSettings
from fedafd.cli.main import app
from fedafd.distiller.client import DistillationClient
from fedafd.domain.config import TlsConfig, parse_agent_config
from fedafd.domain.errors import ConfigurationError, NotFoundError, UnauthenticatedError
from fedafd.domain.kinds import ClientKind
from fedafd.persistence.migrate import migrate
from fedafd.rpc.channel import open_channel
from fedafd.rpc.status import error_from_rpc
from fedafd.rpc.tls import channel_credentials, server_credentials
from fedafd.storage.factory import StoreSettings

Serve = Callable[..., Awaitable[str]]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


@pytest.fixture
async def aggregator(tmp_path: Path, redis_url: str) -> AsyncIterator[Serve]:
    """Starts an aggregator with these TLS settings; returns its address."""
    running: list[tuple[asyncio.Event, asyncio.Future[None]]] = []

    async def start(**tls: Any) -> str:
        database_url = f"sqlite:///{tmp_path}/tls.db"
        await asyncio.to_thread(migrate, database_url)
        settings = AggregatorSettings(
            listen=f"localhost:{free_port()}",
            database_url=database_url,
            redis_url=redis_url,
            store=StoreSettings(url=str(tmp_path / "store")),
            internal_token="internal-token-of-tests",
            **tls,
        )
        stop = asyncio.Event()
        running.append((stop, asyncio.ensure_future(serve(settings, stop))))
        return settings.listen

    yield start
    for stop, work in running:
        stop.set()
        await asyncio.wait_for(work, 30)


@asynccontextmanager
async def channel_to(address: str, tls: TlsConfig | None) -> AsyncIterator[grpc.aio.Channel]:
    channel = open_channel(address, tls)
    yield channel
    await channel.close(None)


async def failure(address: str, tls: TlsConfig | None) -> str:
    """What a client is told that cannot get through; "" if it can."""
    # The server may not be up yet; that is another failure than the one that is asked for.
    for _ in range(100):
        async with channel_to(address, tls) as channel:
            try:
                await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
                return ""
            except grpc.aio.AioRpcError as error:
                text = str(error_from_rpc(error))
        if "Connection refused" not in text:
            return text
        await asyncio.sleep(0.1)
    return text


async def test_the_right_authority_lets_agent_distiller_and_health_check_in(
    aggregator: Serve, authority: Authority
) -> None:
    certificate, key = authority.issue("aggregator")
    address = await aggregator(tls_certificate=certificate, tls_key=key)
    tls = TlsConfig(authorities=authority.file)
    assert await failure(address, tls) == ""

    agent = AggregatorConnection(address, stop=asyncio.Event(), tls=tls)
    with pytest.raises(UnauthenticatedError):  # the token is wrong, so the call arrived
        await agent.enrol("no such token", ClientKind.IMAGE)
    await agent.close()
    with pytest.raises(NotFoundError):
        await asyncio.to_thread(DistillationClient(address, "internal-token-of-tests", tls).claim, "no such stage")
    arguments = ["health", f"grpcs://{address}", "--authorities", str(authority.file)]
    assert (await asyncio.to_thread(CliRunner().invoke, app, arguments)).exit_code == 0


async def test_each_failure_says_what_is_wrong_and_what_to_do(
    aggregator: Serve, authority: Authority, tmp_path: Path
) -> None:
    certificate, key = authority.issue("aggregator")
    ours = TlsConfig(authorities=authority.file)
    address = await aggregator(tls_certificate=certificate, tls_key=key)
    theirs = TlsConfig(authorities=Authority(tmp_path, "theirs").file)
    assert "not signed by an authority that is trusted here" in await failure(address, theirs)
    assert "if it speaks TLS, set `tls` or `plaintext: false` here" in await failure(address, None)
    assert "does not speak TLS" in await failure(await aggregator(), ours)
    expired, expired_key = authority.issue("expired", days=-1)
    address = await aggregator(tls_certificate=expired, tls_key=expired_key)
    assert "its certificate has expired" in await failure(address, ours)


async def test_another_name_in_the_certificate_needs_server_name(aggregator: Serve, authority: Authority) -> None:
    certificate, key = authority.issue("aggregator", host="aggregator.internal")
    address = await aggregator(tls_certificate=certificate, tls_key=key)
    assert "another name" in await failure(address, TlsConfig(authorities=authority.file))
    named = TlsConfig(authorities=authority.file, server_name="aggregator.internal")
    assert await failure(address, named) == ""


async def test_client_certificates_are_asked_for_and_checked(
    aggregator: Serve, authority: Authority, tmp_path: Path
) -> None:
    certificate, key = authority.issue("aggregator")
    address = await aggregator(tls_certificate=certificate, tls_key=key, tls_client_authorities=authority.file)

    def showing(pair: tuple[Path, Path]) -> TlsConfig:
        return TlsConfig(authorities=authority.file, certificate=pair[0], key=pair[1])

    assert await failure(address, showing(authority.issue("site"))) == ""
    for refused in (
        TlsConfig(authorities=authority.file),
        showing(Authority(tmp_path, "theirs").issue("stranger")),
        showing(authority.issue("late", days=-1)),
    ):
        assert "if it asks for client certificates, set" in await failure(address, refused)


async def test_a_renewed_server_certificate_is_taken_up_without_a_restart(
    aggregator: Serve, authority: Authority
) -> None:
    certificate, key = authority.issue("aggregator", days=-1)
    ours = TlsConfig(authorities=authority.file)
    address = await aggregator(tls_certificate=certificate, tls_key=key)
    assert "expired" in await failure(address, ours)
    good = key.read_bytes()
    key.write_text("half written")
    assert "expired" in await failure(address, ours)  # the old pair stays in use
    key.write_bytes(good)
    authority.issue("aggregator")
    assert await failure(address, ours) == ""


@pytest.mark.parametrize("who", ["agent", "distiller"])
async def test_a_renewed_client_certificate_is_taken_up_without_a_restart(
    aggregator: Serve, authority: Authority, who: str
) -> None:
    certificate, key = authority.issue("aggregator")
    address = await aggregator(tls_certificate=certificate, tls_key=key, tls_client_authorities=authority.file)
    mine = authority.issue("mine", days=-1)
    tls = TlsConfig(authorities=authority.file, certificate=mine[0], key=mine[1])
    if who == "agent":
        connection = AggregatorConnection(address, stop=asyncio.Event(), tls=tls)
        asked: asyncio.Future[object] = asyncio.ensure_future(connection.enrol("no such token", ClientKind.IMAGE))
    else:
        client = DistillationClient(address, "internal-token-of-tests", tls)
        asked = asyncio.ensure_future(asyncio.to_thread(client.claim, "no such stage"))
    await asyncio.sleep(1)
    assert not asked.done(), "an expired certificate must not be let in"
    authority.issue("mine")
    with pytest.raises((UnauthenticatedError, NotFoundError)):
        await asyncio.wait_for(asked, 60)
    if who == "agent":
        await connection.close()


def _broken(folder: Path, authority: Authority) -> dict[str, tuple[TlsConfig, str]]:
    certificate, _ = authority.issue("mine")
    _, other_key = authority.issue("other")
    text = folder / "text.pem"
    text.write_text("not PEM")
    return {
        "absent": (TlsConfig(authorities=folder / "absent.pem"), "absent.pem: cannot be read: No such file"),
        "not PEM": (TlsConfig(authorities=text), "text.pem: holds no authority's certificate in PEM"),
        "key of another": (
            TlsConfig(certificate=certificate, key=other_key),
            "the key does not belong to the certificate",
        ),
        "key not PEM": (TlsConfig(certificate=certificate, key=text), "needed are a certificate and its key"),
    }


@pytest.mark.parametrize("case", ["absent", "not PEM", "key of another", "key not PEM"])
def test_files_that_cannot_be_used_are_named_at_the_start(tmp_path: Path, authority: Authority, case: str) -> None:
    tls, text = _broken(tmp_path, authority)[case]
    with pytest.raises(ConfigurationError, match=text):
        channel_credentials(tls)
    if tls.certificate and tls.key:
        with pytest.raises(ConfigurationError, match=text):
            server_credentials(tls.certificate, tls.key)


def test_half_a_pair_is_refused(tmp_path: Path) -> None:
    values: dict[str, Any] = {"aggregator": "a:1", "kind": "image", "data": {"adapter": "shapes"}}
    with pytest.raises(ConfigurationError, match="tls: .*certificate and key are needed together"):
        parse_agent_config(values | {"tls": {"certificate": "c.pem"}})
    with pytest.raises(ConfigurationError, match="tls.ca: unknown key; allowed here: authorities"):
        parse_agent_config(values | {"tls": {"ca": "c.pem"}})
    needed: dict[str, Any] = {
        "database_url": "sqlite:///x",
        "redis_url": "redis://h/0",
        "store": {"url": str(tmp_path)},
        "internal_token": "t" * 20,
    }
    for given in ("tls_certificate", "tls_client_authorities"):
        with pytest.raises(ValueError, match="TLS_CERTIFICATE and TLS_KEY"):
            AggregatorSettings(**(needed | {given: "c.pem"}))
