"""What somebody without a client's key can do to it, and to whoever reads the log: over real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.aggregator.test_identity import Site, enrolled, fetch
from tests.aggregator.world import World

from fedafd.aggregator import interceptor
from fedafd.aggregator.server import make_server
from fedafd.domain.pacing import Pace
from fedafd.domain.secrets import SecretKind, new_secret
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.proto.v1 import distillation_pb2, types_pb2
from fedafd.rpc.credentials import bearer_metadata
from fedafd.rpc.sessions import session_metadata

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.mark.parametrize("recorded", [False, True], ids=["a request of another key", "the client's own request"])
async def test_a_stolen_credential_without_its_key_does_not_take_the_clients_place(
    world: World, recorded: bool
) -> None:
    """Nor with a request for a certificate that the client's key signed once, as who ends TLS in front could have."""
    site, thief = await enrolled(world), Site("none")
    request = pb.RenewCertificateRequest(certificate_request=(site if recorded else thief).request())
    stolen = (*bearer_metadata(site.secret), *session_metadata(thief.session))
    with suppress(grpc.aio.AioRpcError):  # what the client's own key asked for is granted, and is of use to it alone
        await world.agents.RenewCertificate(request, metadata=stolen)
    await fetch(world, site.signed())


async def test_watching_health_is_refused_without_a_trace(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Each try wrote a trace into the log; and a watcher that reads nothing holds what tells the others."""
    async with listening(world) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=20)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await watch.read()
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "Traceback" not in caplog.text


async def test_strangers_open_a_few_streams_of_reflection_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interceptor, "_FOREIGN_STREAMS", 2, raising=False)
    async with listening(world) as channel:
        first, second = [await reflecting(channel) for _ in range(2)]
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await reflecting(channel)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await first.done_writing()
        assert await first.read() is grpc.aio.EOF  # type: ignore[attr-defined]
        third = await reflecting(channel)
        for stream in (second, third):
            stream.cancel()


async def test_a_stream_of_reflection_is_not_open_for_long(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interceptor, "_FOREIGN_SECONDS", 0.5, raising=False)
    async with listening(world) as channel:
        stream = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(timeout=60)
        assert await stream.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "was open for 0.5 s" in (await stream.details())


async def reflecting(channel: grpc.aio.Channel) -> Any:
    """A stream that has been answered once."""
    stream = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(timeout=60)
    with suppress(asyncio.InvalidStateError):  # where it was refused already, which the read tells
        await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    assert (await stream.read()).list_services_response.service
    return stream


async def test_guesses_from_one_address_are_refused_at_a_pace_and_known_callers_are_not_slowed(world: World) -> None:
    """Whoever has no credential had no limit: tokens and credentials were looked up as fast as they came."""
    world.context.strangers._pace = Pace(per_second=0.01, burst=4)
    site = await enrolled(world)

    def token() -> Any:
        request = pb.EnrollRequest(token=new_secret(SecretKind.ENROLMENT), kind=types_pb2.CLIENT_KIND_IMAGE)
        return world.agents.Enroll(request)

    def credential() -> Any:
        guessed = bearer_metadata(new_secret(SecretKind.CREDENTIAL))
        return world.agents.FetchTask(pb.FetchTaskRequest(), metadata=(*guessed, *session_metadata("0" * 16)))

    def internal_token() -> Any:
        request = distillation_pb2.ClaimStageRequest(stage_id="stage", worker="guess")
        return world.distillers.ClaimStage(request, metadata=bearer_metadata(new_secret(SecretKind.INTERNAL)))

    guesses = [asyncio.ensure_future(refusal(guess())) for guess in (token, credential, internal_token) * 4]
    ended = asyncio.as_completed(guesses)
    assert [await next(ended) for _ in range(4)] == 4 * [grpc.StatusCode.UNAUTHENTICATED]
    await fetch(world, site.signed())
    assert sum(guess.done() for guess in guesses) == 4
    for guess in guesses:
        guess.cancel()


async def refusal(call: Any) -> grpc.StatusCode:
    """How the call ends."""
    with suppress(grpc.aio.AioRpcError):
        await call
    code: grpc.StatusCode = await call.code()
    return code


@asynccontextmanager
async def listening(world: World) -> AsyncIterator[grpc.aio.Channel]:
    """A way to all services of the world's aggregator."""
    server, _ = make_server(world.context)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)
