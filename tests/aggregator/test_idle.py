"""Who waits for a round costs the database next to nothing, and yet hears of all that concerns it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from sqlalchemy import update
from tests.aggregator.world import World, refused

from fedafd.aggregator import callers as callers_module
from fedafd.aggregator.renewals import Renewals
from fedafd.aggregator.round_watch import watch_rounds
from fedafd.domain.states import RoundState
from fedafd.persistence.caller_repository import CallingClient, callers_by_credential
from fedafd.persistence.client_repository import get_client
from fedafd.persistence.models import ClientRow, RoundRow, utc_now
from fedafd.proto.v1 import aggregator_pb2 as pb

Caller = tuple[tuple[str, str], ...]


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One database: what is counted is the same on both."""
    return f"sqlite:///{tmp_path}/test.db"


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each look at who calls."""
    made: list[int] = []

    async def counted(session: Any, hashes: Sequence[str]) -> Any:
        made.append(len(hashes))
        return await callers_by_credential(session, hashes)

    monkeypatch.setattr(callers_module, "callers_by_credential", counted)
    return made


@asynccontextmanager
async def watching(world: World) -> AsyncIterator[None]:
    watch = asyncio.ensure_future(watch_rounds(world.context, 0.05))
    await asyncio.sleep(0.3)
    try:
        yield
    finally:
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch


async def poll(world: World, caller: Caller, wait: float = 0.05) -> pb.FetchTaskResponse:
    request = pb.FetchTaskRequest()
    request.wait.FromMilliseconds(int(1000 * wait))
    answer: pb.FetchTaskResponse = await world.agents.FetchTask(request, metadata=caller)
    return answer


async def until_trained(world: World, caller: Caller) -> None:
    while True:
        if (await poll(world, caller, 0.1)).HasField("train"):
            return


async def until_refused(world: World, caller: Caller) -> None:
    while True:
        await poll(world, caller)
        await asyncio.sleep(0.05)


async def test_polls_of_who_waits_ask_the_database_nothing(world: World, looks: list[int]) -> None:
    caller = await world.enrol("north")
    async with watching(world):
        await poll(world, caller)
        before = len(looks)
        for _ in range(5):
            assert (await poll(world, caller)).HasField("idle")
        assert len(looks) == before


async def test_nobody_is_remembered_for_long_without_a_watch(world: World, looks: list[int]) -> None:
    caller = await world.enrol("north")
    for number in range(1, 4):
        await poll(world, caller)
        assert len(looks) == number


async def test_a_round_whose_wake_up_was_lost_is_found(world: World) -> None:
    caller = await world.enrol("north")
    async with watching(world):
        await poll(world, caller)
        changed = world.context.wakeups.changed
        object.__setattr__(world.context.wakeups, "changed", lambda *_, **__: None)
        await world.start_round()
        await world.prepare()
        object.__setattr__(world.context.wakeups, "changed", changed)
        await asyncio.wait_for(until_trained(world, caller), 20)


async def test_a_revocation_whose_wake_up_was_lost_is_found(world: World) -> None:
    caller = await world.enrol("north")
    async with watching(world):
        await poll(world, caller)
        async with world.context.database.transaction() as session:
            await session.execute(update(ClientRow).values(revoked_at=utc_now()))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await asyncio.wait_for(until_refused(world, caller), 20)
    refused(raised, grpc.StatusCode.UNAUTHENTICATED, "unauthenticated")


async def test_while_a_round_collects_each_poll_looks(world: World, looks: list[int]) -> None:
    caller = await world.enrol("north")
    await world.start_round()
    async with world.context.database.transaction() as session:
        await session.execute(update(RoundRow).values(state=RoundState.COLLECTING.value))
    async with watching(world):
        before = len(looks)
        for _ in range(3):
            await poll(world, caller)
        assert len(looks) >= before + 3


async def test_sessions_are_extended_together_and_only_by_who_holds_them(world: World) -> None:
    bearers = [await world.enrol(name) for name in ("north", "south")]
    for caller in bearers:
        await poll(world, caller)
    renewals, now = Renewals(world.context.database, seconds=0.05), utc_now()
    until = now + timedelta(hours=1)
    async with world.context.database.snapshot() as session:
        north, south = [CallingClient.of(await get_client(session, "trial", name)) for name in ("north", "south")]
    assert north.session is not None
    assert not renewals.take(north, "another", now, until)
    assert renewals.take(north, north.session, now, until)
    assert renewals.take(south, south.session or "", now, until)
    async with world.context.database.transaction() as session:
        await session.execute(update(ClientRow).where(ClientRow.name == "south").values(session="taken over"))
    await renewals.close()
    async with world.context.database.snapshot() as session:
        assert (await get_client(session, "trial", "north")).session_until == until
        taken = await get_client(session, "trial", "south")
    assert taken.session == "taken over"
    assert taken.session_until != until


async def test_a_session_that_is_nearly_over_is_extended_at_once(world: World) -> None:
    caller = await world.enrol("north")
    await poll(world, caller)
    async with world.context.database.snapshot() as session:
        client = CallingClient.of(await get_client(session, "trial", "north"))
    client.session_until = utc_now() + timedelta(seconds=1)
    assert not Renewals(world.context.database).take(client, client.session or "", utc_now(), utc_now())


async def test_who_leads_looks_less_often_while_no_round_is_open(world: World) -> None:
    coordinator = world.coordinator
    before = coordinator._look_again_seconds
    await world.coordinate()
    assert coordinator._look_again_seconds == 3 * before < coordinator._lease.total_seconds()
    await world.start_round()
    assert coordinator._look_again_seconds == before
