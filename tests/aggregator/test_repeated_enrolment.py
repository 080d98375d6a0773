"""An enrolment whose answer was lost can be repeated by the agent that made it, and by nobody else."""

from __future__ import annotations

import secrets
from datetime import timedelta

import grpc
import grpc.aio
import pytest
from tests.aggregator.world import World, refused

from fedafd.domain.kinds import ParticipantKind
from fedafd.persistence.client_repository import invite_client
from fedafd.persistence.event_repository import events_after
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.proto.v1 import types_pb2
from fedafd.rpc.credentials import bearer_metadata
from fedafd.rpc.sessions import session_metadata


async def invited(world: World) -> str:
    async with world.context.database.transaction() as session:
        _, token = await invite_client(session, "trial", "north", ParticipantKind.IMAGE, timedelta(hours=1))
    return token


async def enrol(world: World, token: str, nonce: bytes) -> str:
    request = pb.EnrollRequest(token=token, kind=types_pb2.CLIENT_KIND_IMAGE, nonce=nonce)
    return str((await world.agents.Enroll(request)).credential)


async def test_the_same_agent_gets_the_same_credential_again_and_it_works(world: World) -> None:
    token, nonce = await invited(world), secrets.token_bytes(32)
    credentials = {await enrol(world, token, nonce) for _ in range(3)}
    assert len(credentials) == 1
    caller = (*bearer_metadata(credentials.pop()), *session_metadata(secrets.token_hex(8)))
    await world.agents.FetchTask(pb.FetchTaskRequest(), metadata=caller)
    async with world.context.database.transaction() as session:
        kinds = [event.kind for event in await events_after(session, "trial", 0)]
    assert kinds.count("client.enrolled") == 1


@pytest.mark.parametrize("other", [b"", b"another agent's own number"], ids=["none", "another"])
async def test_who_has_the_token_alone_gets_nothing_once_it_is_used(world: World, other: bytes) -> None:
    token = await invited(world)
    await enrol(world, token, secrets.token_bytes(32))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await enrol(world, token, other)
    refused(raised, grpc.StatusCode.ALREADY_EXISTS, "already-enrolled")


async def test_agents_without_a_number_enrol_once_as_before(world: World) -> None:
    token = await invited(world)
    first = await enrol(world, token, b"")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await enrol(world, token, b"")
    refused(raised, grpc.StatusCode.ALREADY_EXISTS, "already-enrolled")
    assert first.startswith("fedafd-client.")


@pytest.mark.parametrize("length", [1, 15, 65])
async def test_a_number_that_is_too_short_or_too_long_is_refused(world: World, length: int) -> None:
    token = await invited(world)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await enrol(world, token, b"x" * length)
    assert "16 to 64" in refused(raised, grpc.StatusCode.INVALID_ARGUMENT, "invalid-request")
