"""TLS that nobody set up: a real aggregator off loopback, agents with a token, distillers with a shared secret."""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.certificates import Authority
from tests.servers import free_port
from typer.testing import CliRunner

from fedafd.agent.check_aggregator import check_aggregator
from fedafd.agent.connection import AggregatorConnection
from fedafd.agent.enrolment import enrol
from fedafd.agent.findings import Level
from fedafd.agent.ledger import Ledger
from fedafd.agent.line import AUTHORITY_FILE, with_line
from fedafd.agent.session import AgentSession
from fedafd.agent.state import Credential, StateDirectory
from fedafd.aggregator.server import serve
from fedafd.aggregator.settings import AggregatorSettings
from fedafd.cli.main import app
from fedafd.control_plane.clients.schemas import InviteClient
from fedafd.control_plane.clients.service import invite
from fedafd.distiller.client import DistillationClient
from fedafd.distiller.settings import DistillerSettings, line_to_aggregator
from fedafd.domain.config import AgentConfig, FederationConfig, TlsConfig, parse_agent_config
from fedafd.domain.errors import ConfigurationError, NotFoundError
from fedafd.domain.kinds import ClientKind, ParticipantKind
from fedafd.domain.secrets import token_and_pin
from fedafd.persistence.database import Database
from fedafd.persistence.federation_repository import add_federation
from fedafd.persistence.migrate import migrate
from fedafd.proto.v1 import distillation_pb2
from fedafd.proto.v1.aggregator_pb2_grpc import AggregatorServiceStub
from fedafd.proto.v1.distillation_pb2_grpc import DistillationServiceStub
from fedafd.rpc.authority import new_authority, pin_of_authority
from fedafd.rpc.channel import open_sync_channel
from fedafd.rpc.credentials import bearer_metadata
from fedafd.rpc.own_tls import internal_trust
from fedafd.rpc.tls import Trust
from fedafd.storage.factory import StoreSettings

INTERNAL = "internal-token-of-tests"
Serve = Callable[..., Awaitable[str]]


@pytest.fixture
async def aggregator(tmp_path: Path, redis_url: str) -> AsyncIterator[Serve]:
    """Starts an aggregator on all addresses; returns one that is not loopback by name, and leads here."""
    running: list[tuple[asyncio.Event, asyncio.Future[None]]] = []

    async def start(**changes: Any) -> str:
        database_url = f"sqlite:///{tmp_path}/tls.db"
        await asyncio.to_thread(migrate, database_url)
        values = {"listen": f"0.0.0.0:{free_port()}", "database_url": database_url, "redis_url": redis_url}
        store = StoreSettings(url=str(tmp_path / "store"))
        settings = AggregatorSettings(**values | changes, store=store, internal_token=INTERNAL)
        stop = asyncio.Event()
        running.append((stop, asyncio.ensure_future(serve(settings, stop))))
        for _ in range(600):  # until it listens
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", int(settings.listen.rpartition(":")[2]))
            except OSError:
                await asyncio.sleep(0.05)
                assert not running[-1][1].done(), running[-1][1].exception()
            else:
                writer.close()
                break
        return settings.listen

    yield start
    for stop, work in running:
        stop.set()
        await asyncio.wait_for(work, 30)


async def invitation(tmp_path: Path) -> str:
    """What `fedafd client invite` prints."""
    database = Database(f"sqlite:///{tmp_path}/tls.db")
    async with database.transaction() as session:
        await add_federation(session, "trial", FederationConfig(name="trial").model_dump(mode="json"))
        wanted = InviteClient(name="north", kind=ParticipantKind.IMAGE)
        made = await invite(session, "trial", wanted, timedelta(hours=1), "test")
    await database.close()
    return made.enrolment_token


def site(address: str, folder: Path, **more: Any) -> AgentConfig:
    values = {"aggregator": address, "kind": "image", "data": {"adapter": "shapes"}, "state_dir": str(folder)}
    return parse_agent_config(values | more, "agent.yaml")


async def join(config: AgentConfig, token: str) -> Credential:
    state, stop = StateDirectory(config.state_dir), asyncio.Event()
    lined = with_line(config, state.root, token)
    return await enrol(lined, token, ClientKind.IMAGE, state=state, ledger=Ledger(state.root), stop=stop)


async def call_again(config: AgentConfig, credential: Credential) -> None:
    """As after a restart, without the token."""
    line = with_line(config, config.state_dir, None)
    session = AgentSession(config.state_dir)
    stop = asyncio.Event()
    connection = AggregatorConnection(line.aggregator, tls=line.tls, stop=stop, credential=credential, session=session)
    async with asyncio.timeout(20):
        await connection.fetch_task(0, 0.0)
    await connection.close()


async def health(address: str, tls: TlsConfig | Trust | None) -> str:
    """What gRPC says to who does not get through; "" to who does."""
    return await asyncio.to_thread(_health, address, tls)


def _health(address: str, tls: TlsConfig | Trust | None) -> str:
    with open_sync_channel(address, tls) as channel:
        try:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        except grpc.RpcError as error:
            return str(error.details())
    return ""


async def test_the_token_alone_makes_an_agent_certain_of_the_aggregator(aggregator: Serve, tmp_path: Path) -> None:
    address = await aggregator()
    token = await invitation(tmp_path)
    config = site(address, tmp_path / "site")
    assert [each.level for each in await asyncio.to_thread(check_aggregator, config)] == [Level.FINE]
    credential = await join(config, token)
    assert credential.certificate
    await call_again(config, credential)
    checked = await asyncio.to_thread(check_aggregator, config)
    assert {each.level for each in checked} <= {Level.FINE, Level.WARNING}, checked
    assert any("valid until" in each.text for each in checked)


async def test_an_aggregator_of_another_authority_gets_neither_token_nor_credential(
    aggregator: Serve, tmp_path: Path
) -> None:
    address = await aggregator()
    secret, _ = token_and_pin(await invitation(tmp_path))
    other = f"{secret}.{pin_of_authority(new_authority().certificate_pem())}"
    with pytest.raises(TimeoutError):  # it goes on trying: the way may be mended
        async with asyncio.timeout(3):
            await join(site(address, tmp_path / "site"), other)
    told = await health(address, with_line(site(address, tmp_path / "site"), tmp_path / "site", None).tls)
    assert "CERTIFICATE_VERIFY_FAILED" in told
    # The token was not spent.
    await join(site(address, tmp_path / "site"), await _whole(tmp_path, secret))


async def _whole(tmp_path: Path, secret: str) -> str:
    from fedafd.persistence.authority_repository import find_authority

    database = Database(f"sqlite:///{tmp_path}/tls.db")
    async with database.transaction() as session:
        row = await find_authority(session)
    await database.close()
    assert row is not None
    return f"{secret}.{pin_of_authority(row.certificate)}"


async def test_plain_text_needs_a_word_on_both_sides(aggregator: Serve, tmp_path: Path) -> None:
    address = await aggregator(plaintext=True)
    token = await invitation(tmp_path)
    config = site(address, tmp_path / "site")
    refused = with_line(config, tmp_path, token).tls
    assert refused is not None
    assert "WRONG_VERSION_NUMBER" in await health(address, refused)
    credential = await join(site(address, tmp_path / "site", plaintext=True), token)
    await call_again(site(address, tmp_path / "site", plaintext=True), credential)
    loopback = site(f"127.0.0.1:{address.rpartition(':')[2]}", tmp_path / "site")
    await call_again(loopback, credential)


def test_only_a_word_turns_tls_off_to_another_machine_or_on_to_this_one(tmp_path: Path) -> None:
    here, there = "localhost:7443", "fed.example.org:7443"
    assert with_line(site(here, tmp_path), tmp_path, None).tls is None
    assert with_line(site(here, tmp_path, plaintext=False), tmp_path, None).tls == TlsConfig()
    assert with_line(site(there, tmp_path), tmp_path, None).tls == TlsConfig()
    assert with_line(site(there, tmp_path, plaintext=True), tmp_path, None).tls is None
    own = TlsConfig(server_name="other")
    pin = pin_of_authority(new_authority().certificate_pem())
    assert with_line(site(there, tmp_path, tls={"server_name": "other"}), tmp_path, f"a.b.{pin}").tls == own
    assert not (tmp_path / AUTHORITY_FILE).exists()
    with pytest.raises(ConfigurationError, match="damaged"):
        with_line(site(there, tmp_path), tmp_path, f"a.b.{pin[:-6]}")


def distiller(address: str, **changes: Any) -> TlsConfig | Trust | None:
    values = {"aggregator": address, "redis_url": "redis://x", "store": {"url": "x"}, "internal_token": INTERNAL}
    return line_to_aggregator(DistillerSettings(**values | changes))


async def test_distillers_and_aggregator_know_each_other_by_the_internal_token(aggregator: Serve) -> None:
    apart, asked = f"0.0.0.0:{free_port()}", f"127.0.0.1:{free_port()}"
    address = await aggregator(internal_listen=apart, health_listen=asked)
    line = distiller(apart)
    with pytest.raises(NotFoundError):
        await asyncio.to_thread(DistillationClient(apart, INTERNAL, line).claim, "0" * 32)
    # Not even a handshake without the token, nor one of distillers where agents call.
    assert await health(apart, internal_trust("another-token-of-tests")) != ""
    assert await health(apart, None) != ""
    assert isinstance(line, Trust)
    stranger = internal_trust("another-token-of-tests").shown
    assert await health(apart, Trust(line.authorities, line.server_name, stranger)) != ""
    claim = distillation_pb2.ClaimStageRequest(stage_id="0" * 32, worker="w")
    for where, stub, call in (
        (address, DistillationServiceStub, "ClaimStage"),
        (apart, AggregatorServiceStub, "Enroll"),
        (asked, DistillationServiceStub, "ClaimStage"),
    ):
        with open_sync_channel(where, None if where == asked else line) as channel:
            method = partial(getattr(stub(channel), call), claim, metadata=bearer_metadata(INTERNAL), timeout=20)
            with pytest.raises(grpc.RpcError) as raised:
                await asyncio.to_thread(method)
            assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert await health(asked, None) == ""


async def test_neither_a_clients_certificate_nor_the_token_of_before_opens_the_distillers_listener(
    aggregator: Serve, tmp_path: Path
) -> None:
    """A client has a certificate of the deployment's authority, which is not the distillers'."""
    apart, before = f"0.0.0.0:{free_port()}", "previous-token-of-tests"
    address = await aggregator(internal_listen=apart, previous_internal_token=before)
    line = distiller(apart)
    assert isinstance(line, Trust)
    credential = await join(site(address, tmp_path / "site"), await invitation(tmp_path))
    der = base64.b64decode(credential.certificate)
    pem = x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
    for shown in ((credential.key.encode(), pem), internal_trust(before).shown):
        assert await health(apart, Trust(line.authorities, line.server_name, shown)) != ""
    with open_sync_channel(apart, line) as channel:
        stub = DistillationServiceStub(channel)
        for bearer in (before, credential.secret, ""):
            for call, request in (
                (stub.ClaimStage, distillation_pb2.ClaimStageRequest(stage_id="0" * 32, worker="w")),
                (stub.CompleteStage, distillation_pb2.CompleteStageRequest(stage_id="0" * 32, token=1)),
                (stub.FailStage, distillation_pb2.FailStageRequest(stage_id="0" * 32, token=1)),
                (stub.DescribeMaker, distillation_pb2.DescribeMakerRequest(stage_id="0" * 32, key="x")),
                (stub.ReportStageProgress, distillation_pb2.ReportStageProgressRequest(stage_id="0" * 32, token=1)),
            ):
                with pytest.raises(grpc.RpcError) as raised:
                    await asyncio.to_thread(partial(call, request, metadata=bearer_metadata(bearer), timeout=20))
                assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_beside_certificates_of_your_own_distillers_know_the_aggregator_by_the_internal_token(
    aggregator: Serve, tmp_path: Path
) -> None:
    authority, apart = Authority(tmp_path, "own"), f"0.0.0.0:{free_port()}"
    certificate, key = authority.issue("server")
    address = await aggregator(
        internal_listen=apart, tls_certificate=certificate, tls_key=key, tls_client_authorities=authority.file
    )
    line = distiller(apart)
    with pytest.raises(NotFoundError):
        await asyncio.to_thread(DistillationClient(apart, INTERNAL, line).claim, "0" * 32)
    assert isinstance(line, Trust) and await health(address, line) != ""
    shown, its_key = authority.issue("site")
    own = TlsConfig(authorities=authority.file, certificate=shown, key=its_key, server_name="localhost")
    assert await health(address, own) == "" and await health(apart, own) != ""


async def test_distillers_without_a_listener_of_their_own_are_served_beside_agents(aggregator: Serve) -> None:
    address = await aggregator()
    with pytest.raises(NotFoundError):
        await asyncio.to_thread(DistillationClient(address, INTERNAL, distiller(address)).claim, "0" * 32)
    assert distiller("127.0.0.1:1") is None
    assert isinstance(distiller("127.0.0.1:1", plaintext=False), Trust)
    assert distiller(address, plaintext=True) is None
    given = distiller(address, tls=TlsConfig(server_name="x"))
    assert given == TlsConfig(server_name="x")


async def test_health_is_asked_of_whoever_shows_a_certificate(aggregator: Serve) -> None:
    address = await aggregator()
    asked = await asyncio.to_thread(CliRunner().invoke, app, ["health", "--any-certificate", f"grpcs://{address}"])
    assert (asked.exit_code, asked.output.strip()) == (0, f"{address}: SERVING")
    asked = await asyncio.to_thread(CliRunner().invoke, app, ["health", f"grpcs://{address}"])
    assert asked.exit_code != 0


async def test_health_is_asked_where_each_connection_leads_to_another_aggregator(aggregator: Serve) -> None:
    """As a Service of two replicas does; each has a certificate of its own."""
    behind = itertools.cycle([await aggregator(), await aggregator()])

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = next(behind).rpartition(":")
        its_reader, its_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(_copy(reader, its_writer), _copy(its_reader, writer))

    async with await asyncio.start_server(pass_on, "127.0.0.1", 0) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        asked = await asyncio.to_thread(CliRunner().invoke, app, ["health", "--any-certificate", f"grpcs://{address}"])
    assert (asked.exit_code, asked.output.strip()) == (0, f"{address}: SERVING")


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
