"""A client has one live agent: the first keeps its session, a second is refused and shown, on every replica."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import grpc
import grpc.aio
import pytest
from tests.aggregator.world import World, refused

from fedafd.aggregator.server import make_server
from fedafd.domain.kinds import ClientKind
from fedafd.persistence.client_repository import get_client, invite_again
from fedafd.persistence.event_repository import events_after
from fedafd.persistence.models import ClientRow
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.proto.v1.aggregator_pb2_grpc import AggregatorServiceStub
from fedafd.rpc.credentials import bearer_metadata
from fedafd.rpc.sessions import session_metadata

Caller = tuple[tuple[str, str], ...]
FIRST, SECOND, THIRD = "1" * 16, "2" * 16, "3" * 16


async def credential(world: World, name: str = "north") -> Caller:
    return (await world.enrol(name))[:1]


async def poll(stub: AggregatorServiceStub, caller: Caller, wait: float = 0.0, known: int = 0) -> pb.FetchTaskResponse:
    request = pb.FetchTaskRequest(known_revision=known)
    request.wait.FromMilliseconds(int(wait * 1000))
    answer: pb.FetchTaskResponse = await stub.FetchTask(request, metadata=caller)
    return answer


async def expect_refusal(stub: AggregatorServiceStub, caller: Caller) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await poll(stub, caller)
    return refused(raised, grpc.StatusCode.FAILED_PRECONDITION, "identity-in-use")


async def row_of(world: World, name: str = "north") -> ClientRow:
    async with world.context.database.snapshot() as session:
        return await get_client(session, "trial", name)


def shorten(world: World, seconds: float) -> None:
    """A lease that tests can wait for."""
    object.__setattr__(world.context, "session_lease", timedelta(seconds=seconds))


async def test_a_second_agent_is_refused_while_the_first_is_alive_and_all_are_told(world: World) -> None:
    bearer = await credential(world)
    first, second = (*bearer, *session_metadata(FIRST)), (*bearer, *session_metadata(SECOND))
    idle = await poll(world.agents, first)
    waiting = asyncio.ensure_future(poll(world.agents, first, 30.0, idle.revision))
    await asyncio.sleep(0.1)
    for _ in range(3):
        words = await expect_refusal(world.agents, second)
    assert "client north: another agent with this credential is at work" in words
    told = await asyncio.wait_for(waiting, 10)
    assert told.HasField("other_agent_refused_at")
    assert told.HasField("idle")
    async with world.context.database.snapshot() as session:
        events = [e for e in await events_after(session, "trial", 0) if e.kind == "client.second_agent_refused"]
    assert [event.data for event in events] == [{"client": "north"}]
    assert (await row_of(world)).session == FIRST


async def test_no_call_of_a_second_agent_has_an_effect(world: World) -> None:
    bearer = await credential(world)
    first, second = (*bearer, *session_metadata(FIRST)), (*bearer, *session_metadata(SECOND))
    await poll(world.agents, first)
    round_id = await world.start_round()
    await world.prepare()
    for call in (
        world.agents.LeaveRound(pb.LeaveRoundRequest(round_id=round_id), metadata=second),
        world.agents.ReportProgress(pb.ReportProgressRequest(round_id=round_id, alive_only=True), metadata=second),
        world.agents.CommitUpload(pb.CommitUploadRequest(round_id=round_id), metadata=second),
        world.agents.EndSession(pb.EndSessionRequest(), metadata=second),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        refused(raised, grpc.StatusCode.FAILED_PRECONDITION, "identity-in-use")
    assert (await world.deliver(first, round_id, world.reps())).accepted


async def test_replicas_agree_on_who_is_alive(world: World) -> None:
    bearer = await credential(world)
    other, _ = make_server(replace(world.context))
    port = other.add_insecure_port("127.0.0.1:0")
    await other.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = AggregatorServiceStub(channel)
        await poll(world.agents, (*bearer, *session_metadata(FIRST)))
        await expect_refusal(stub, (*bearer, *session_metadata(SECOND)))
        await poll(stub, (*bearer, *session_metadata(FIRST)))
    await other.stop(None)


async def test_of_many_that_begin_at_once_one_is_taken(world: World) -> None:
    bearer = await credential(world)
    callers = [(*bearer, *session_metadata(f"{number:016x}")) for number in range(6)]
    found = await asyncio.gather(*(poll(world.agents, caller) for caller in callers), return_exceptions=True)
    assert sum(isinstance(each, pb.FetchTaskResponse) for each in found) == 1


async def test_a_restart_names_its_dead_predecessor_and_goes_on_at_once(world: World) -> None:
    bearer = await credential(world)
    await poll(world.agents, (*bearer, *session_metadata(FIRST)))
    await poll(world.agents, (*bearer, *session_metadata(SECOND, [THIRD, FIRST])))
    await expect_refusal(world.agents, (*bearer, *session_metadata(FIRST)))


async def test_after_a_goodbye_any_agent_may_begin(world: World) -> None:
    bearer = await credential(world)
    first = (*bearer, *session_metadata(FIRST))
    await poll(world.agents, first)
    await world.agents.EndSession(pb.EndSessionRequest(), metadata=first)
    assert (await row_of(world)).session is None
    assert not (await poll(world.agents, (*bearer, *session_metadata(SECOND)))).HasField("other_agent_refused_at")


async def test_a_session_without_calls_ends_with_its_lease_and_signs_of_life_extend_it(world: World) -> None:
    shorten(world, 1.0)
    bearer = await credential(world)
    first, second = (*bearer, *session_metadata(FIRST)), (*bearer, *session_metadata(SECOND))
    await poll(world.agents, first)
    round_id = await world.start_round()
    await world.prepare()
    alive = pb.ReportProgressRequest(round_id=round_id, alive_only=True)
    for _ in range(4):
        await asyncio.sleep(0.4)
        assert (await world.agents.ReportProgress(alive, metadata=first)).keep_going
    await expect_refusal(world.agents, second)
    await asyncio.sleep(1.1)
    assert (await poll(world.agents, second)).HasField("train")
    await expect_refusal(world.agents, first)


async def test_a_sign_of_life_is_no_progress(world: World) -> None:
    caller = await world.enrol("north", ClientKind.IMAGE)
    round_id = await world.start_round(idle_timeout_seconds=0.5)
    await world.prepare()
    for _ in range(4):
        await asyncio.sleep(0.2)
        await world.agents.ReportProgress(pb.ReportProgressRequest(round_id=round_id, alive_only=True), metadata=caller)
    await world.coordinate()
    assert (await world.round(round_id)).state == "failed"


async def test_a_new_invitation_ends_the_old_session(world: World) -> None:
    bearer = await credential(world)
    await poll(world.agents, (*bearer, *session_metadata(FIRST)))
    await expect_refusal(world.agents, (*bearer, *session_metadata(SECOND)))
    async with world.context.database.transaction() as session:
        token = await invite_again(session, await get_client(session, "trial", "north"), timedelta(hours=1))
    made = await world.agents.Enroll(pb.EnrollRequest(token=token, kind="CLIENT_KIND_IMAGE"))
    answer = await poll(world.agents, (*bearer_metadata(made.credential), *session_metadata(SECOND)))
    assert not answer.HasField("other_agent_refused_at")


@pytest.mark.parametrize("session", [(), (("fedafd-session", "x"),), (("fedafd-session", "A" * 16),)])
async def test_a_call_without_a_session_is_told_to_update(world: World, session: Caller) -> None:
    bearer = await credential(world)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await poll(world.agents, (*bearer, *session))
    assert "update the agent" in refused(raised, grpc.StatusCode.INVALID_ARGUMENT, "invalid-request")
