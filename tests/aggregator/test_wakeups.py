"""Who wakes: a client by what concerns it, nobody by what concerns others; nothing is missed before the wait."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta

import grpc
import grpc.aio
import pytest
from tests.aggregator.world import World, refused

from fedafd.aggregator import agent_service
from fedafd.aggregator.callers import CALLER_SECONDS
from fedafd.aggregator.round_watch import watch_rounds
from fedafd.aggregator.wakeups import Listener, Wakeups
from fedafd.messaging.wakeups import Change
from fedafd.persistence.client_repository import get_client, invite_again, revoke_client
from fedafd.persistence.participation_repository import list_participations
from fedafd.proto.v1 import aggregator_pb2 as pb


@dataclass
class Waiting:
    wakeups: Wakeups
    north: Listener
    south: Listener
    elsewhere: Listener
    coordinator: Listener

    async def woken(self) -> set[str]:
        names = ("north", "south", "elsewhere", "coordinator")
        return {name for name in names if await getattr(self, name).wait(0.01)}


@contextmanager
def waiting() -> Iterator[Waiting]:
    wakeups = Wakeups()
    with ExitStack() as stack:
        places = (("trial", "north"), ("trial", "south"), ("other", "north"))
        north, south, elsewhere = (stack.enter_context(wakeups.of_client(*p, since=wakeups.tick)) for p in places)
        yield Waiting(wakeups, north, south, elsewhere, stack.enter_context(wakeups.of_rounds()))


@pytest.mark.parametrize(
    ("change", "woken"),
    [
        (Change("trial"), {"north", "south", "coordinator"}),
        (Change("trial", frozenset({"south"})), {"south", "coordinator"}),
        (Change("trial", frozenset({"south"}), rounds=False), {"south"}),
        (Change("trial", frozenset(), rounds=False), set()),
        (Change("other", rounds=False), {"elsewhere"}),
    ],
    ids=["federation", "client", "client alone", "watchers", "other federation"],
)
async def test_a_change_wakes_whom_it_concerns_and_once(change: Change, woken: set[str]) -> None:
    with waiting() as those:
        those.wakeups.heard(change)
        assert await those.woken() == woken
        assert await those.woken() == set()


async def test_a_change_between_the_look_and_the_wait_is_not_missed() -> None:
    wakeups = Wakeups()
    before = wakeups.tick
    wakeups.changed("trial", clients=("north",))
    with wakeups.of_client("trial", "north", since=before) as news:
        assert await news.wait(5)
        assert not await news.wait(0.01)


async def test_other_clients_changes_between_the_look_and_the_wait_wake_nobody() -> None:
    wakeups = Wakeups()
    before = wakeups.tick
    wakeups.changed("trial", clients=("south",))
    wakeups.changed("other")
    with wakeups.of_client("trial", "north", since=before) as news:
        assert not await news.wait(0.01)


@pytest.mark.parametrize("change", [Change("trial"), Change("trial", frozenset({"north"}))])
async def test_a_change_that_is_no_longer_noted_is_not_missed(change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedafd.aggregator.wakeups._MOST_NOTED", 2)
    wakeups = Wakeups()
    before = wakeups.tick
    wakeups.heard(change)
    for name in ("east", "south", "west"):
        wakeups.changed("other", clients=(name,))
    with wakeups.of_client("trial", "north", since=before) as news:
        assert await news.wait(5)


async def test_waking_all_between_the_look_and_the_wait_is_not_missed() -> None:
    wakeups = Wakeups()
    before = wakeups.tick
    wakeups.wake()
    with wakeups.of_client("trial", "north", since=before) as news:
        assert await news.wait(5)


async def test_a_change_is_published_with_whom_it_concerns() -> None:
    told: list[tuple[object, ...]] = []
    wakeups = Wakeups(lambda *change: told.append(change))
    wakeups.changed("trial", clients=("north",), rounds=False)
    wakeups.heard(Change("trial"))  # what was heard is not told on
    assert told == [("trial", ("north",), False)]


async def test_other_sites_progress_makes_a_waiting_agent_look_at_nothing(world: World) -> None:
    north, south = await world.enrol("north"), await world.enrol("south")
    round_id = await world.start_round()
    await world.prepare()
    task = await world.agents.FetchTask(pb.FetchTaskRequest(), metadata=south)
    wait = pb.FetchTaskRequest(known_revision=task.revision)
    wait.wait.FromMilliseconds(1500)
    polled = asyncio.ensure_future(world.agents.FetchTask(wait, metadata=south))
    await asyncio.sleep(0.2)
    looks = len([call for call in world.seen if call[1] == "south"])
    for step in range(5):
        request = pb.ReportProgressRequest(round_id=round_id, fraction=step / 5)
        assert (await world.agents.ReportProgress(request, metadata=north)).keep_going
    await world.deliver(north, round_id, world.reps())
    assert (await polled).revision == task.revision
    assert len([call for call in world.seen if call[1] == "south"]) == looks


async def test_progress_is_written_for_many_reports_at_once(world: World) -> None:
    caller = await world.enrol("north")
    round_id = await world.start_round()
    await world.prepare()
    for step in range(1, 6):
        request = pb.ReportProgressRequest(round_id=round_id, fraction=step / 5)
        await world.agents.ReportProgress(request, metadata=caller)
    for expected in ("invited", "training"):
        async with world.context.database.snapshot() as session:
            ((part, _),) = await list_participations(session, round_id)
        assert (part.state, part.progress) == (expected, 0.0 if expected == "invited" else 1.0)
        await world.context.progress.flush()


async def test_a_revocation_that_is_heard_of_acts_at_once(world: World) -> None:
    caller = await world.enrol("north")
    await world.agents.FetchTask(pb.FetchTaskRequest(), metadata=caller)
    await _revoke(world, "north")
    world.context.wakeups.heard(Change("trial"))  # as the control plane's message says
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.EndSession(pb.EndSessionRequest(), metadata=caller)
    assert "revoked" in refused(raised, grpc.StatusCode.UNAUTHENTICATED, "unauthenticated")


async def test_a_revocation_whose_message_was_lost_acts_within_two_seconds(world: World) -> None:
    caller = await world.enrol("north")
    round_id = await world.start_round()
    await world.prepare()
    await _revoke(world, "north")
    await asyncio.sleep(CALLER_SECONDS)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.agents.ReportProgress(pb.ReportProgressRequest(round_id=round_id), metadata=caller)
    assert "revoked" in refused(raised, grpc.StatusCode.UNAUTHENTICATED, "unauthenticated")
    assert CALLER_SECONDS <= 2


async def test_a_waiting_agent_hears_of_its_credentials_end_and_of_a_round_whose_messages_were_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_service, "_SLOW_LOOK_SECONDS", (60.0, 60.0))
    north, south, again = [await world.enrol(name) for name in ("north", "south", "again")]
    watching = asyncio.ensure_future(watch_rounds(world.context, seconds=0.1))
    idle = await world.agents.FetchTask(pb.FetchTaskRequest(), metadata=north)
    request = pb.FetchTaskRequest(known_revision=idle.revision)
    request.wait.FromTimedelta(timedelta(seconds=50))
    polls = [asyncio.ensure_future(world.agents.FetchTask(request, metadata=each)) for each in (north, south, again)]
    await asyncio.sleep(0.5)
    await _revoke(world, "north")
    with pytest.raises(grpc.aio.AioRpcError, match="revoked"):
        await polls[0]
    async with world.context.database.transaction() as session:
        await invite_again(session, await get_client(session, "trial", "again"), timedelta(hours=1))
    with pytest.raises(grpc.aio.AioRpcError, match="credential"):
        await polls[2]
    monkeypatch.setattr(world.context.wakeups, "changed", lambda *_, **__: None)
    await world.start_round()
    await world.prepare()
    assert (await polls[1]).HasField("train")
    watching.cancel()


async def _revoke(world: World, name: str) -> None:
    async with world.context.database.transaction() as session:
        await revoke_client(session, await get_client(session, "trial", name))


async def test_a_listener_rests_until_there_is_news_but_not_too_short_and_not_too_long() -> None:
    loop, listener = asyncio.get_running_loop(), Listener()

    async def rested(shortest: float, longest: float) -> float:
        began = loop.time()
        await listener.rest(shortest, longest)
        return loop.time() - began

    assert await rested(0.01, 0.2) >= 0.2
    loop.call_later(0.05, listener.wake)
    assert await rested(0.01, 30.0) < 20.0
    listener.wake()
    assert await rested(0.1, 30.0) >= 0.1
