"""Callers are remembered for as long as somebody would find out what a lost wake-up said."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import event
from tests.aggregator.world import World

from fedafd.aggregator import callers as callers_module
from fedafd.aggregator.callers import CALLER_SECONDS, WATCHED_SECONDS, Caller, Callers
from fedafd.aggregator.holding import Hold
from fedafd.domain.kinds import ParticipantKind
from fedafd.domain.secrets import hash_secret
from fedafd.messaging.wakeups import Change
from fedafd.persistence.caller_repository import CallingClient
from fedafd.persistence.client_repository import invite_client
from fedafd.persistence.clock import utc_now
from fedafd.persistence.models import ClientRow


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its one number is the time."""
    now = [100.0]
    monkeypatch.setattr(callers_module, "monotonic", lambda: now[0])
    return now


def remembered(callers: Callers, now: float, heard: Change | str | None = "nothing") -> CallingClient:
    """A client that was looked up while that was heard."""
    client = CallingClient.of(ClientRow(id="north", federation_id="trial", name="north", kind="image"))
    callers.begin_look()
    if not isinstance(heard, str):
        callers.forget(heard)
    callers.keep("hash", Caller(client, None, looked_up_at=now, steady=callers.is_steady(client)))
    return client


def test_who_is_watched_is_remembered_for_a_round_and_anybody_else_for_a_moment(clock: list[float]) -> None:
    callers = Callers()
    remembered(callers, clock[0])
    clock[0] += CALLER_SECONDS
    assert callers.find("hash") is None
    for _ in range(int(WATCHED_SECONDS) - 1):
        callers.watched([])
        assert callers.find("hash") is not None
        clock[0] += 1.0
    callers.watched([])
    assert callers.find("hash") is None


def test_once_nobody_watches_any_more_callers_are_looked_up_again(clock: list[float]) -> None:
    callers = Callers()
    callers.watched([])
    remembered(callers, clock[0])
    clock[0] += 4.0
    assert callers.find("hash") is not None
    clock[0] += 2.0
    assert callers.find("hash") is None


@pytest.mark.parametrize(
    ("heard", "steady"),
    [
        (Change("trial", frozenset({"south"})), True),
        (Change("other"), True),
        (Change("trial", frozenset()), True),
        (Change("trial", frozenset({"north"})), False),
        (Change("trial"), False),
        (None, False),
    ],
)
def test_what_changed_for_others_during_the_look_is_nothing_to_a_caller(
    heard: Change | None, steady: bool, clock: list[float]
) -> None:
    callers = Callers()
    callers.watched([])
    remembered(callers, clock[0], heard)
    clock[0] += CALLER_SECONDS + 0.5
    assert (callers.find("hash") is not None) is steady


async def test_those_who_call_at_once_are_looked_up_and_get_their_sessions_in_a_transaction_each(world: World) -> None:
    """Asked for here and not over a line, which brings as many at once as the machine's load lets it."""
    clients, hashes = [], []
    async with world.context.database.transaction() as session:
        for number in range(30):
            client, _ = await invite_client(session, "trial", f"s{number}", ParticipantKind.IMAGE, timedelta(hours=1))
            client.credential_hash = hash_secret(client.id)
            clients.append(client.id)
            hashes.append(client.credential_hash)
    looked: list[object] = []
    event.listen(world.context.database.reading_engine.sync_engine, "begin", looked.append)
    callers = await asyncio.gather(*map(world.context.looks.of, hashes))
    assert [caller.client.id for caller in callers] == clients
    assert len(looked) == 1
    written: list[object] = []
    event.listen(world.context.database.engine.sync_engine, "begin", written.append)
    now = utc_now()
    until = now + timedelta(minutes=1)
    holds = [
        Hold(client_id=client, own=f"{number:016x}", ended=(), now=now, until=until)
        for number, client in enumerate(clients)
    ]
    assert all(await asyncio.gather(*map(world.context.holds.take, holds)))
    assert len(written) == 1
