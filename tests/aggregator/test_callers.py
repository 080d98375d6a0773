"""Callers are remembered for as long as somebody would find out what a lost wake-up said."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event
from tests.aggregator.world import World

from fedafd.aggregator import callers as callers_module
from fedafd.aggregator.callers import CALLER_SECONDS, WATCHED_SECONDS, Caller, Callers
from fedafd.domain.kinds import ParticipantKind
from fedafd.messaging.wakeups import Change
from fedafd.persistence.client_repository import invite_client
from fedafd.persistence.models import ClientRow
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.proto.v1 import types_pb2
from fedafd.rpc.credentials import bearer_metadata
from fedafd.rpc.sessions import session_metadata


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its one number is the time."""
    now = [100.0]
    monkeypatch.setattr(callers_module, "monotonic", lambda: now[0])
    return now


def remembered(callers: Callers, now: float, heard: Change | str | None = "nothing") -> ClientRow:
    """A client that was looked up while that was heard."""
    client = ClientRow(id="north", federation_id="trial", name="north", kind="image")
    callers.begin_look()
    if not isinstance(heard, str):
        callers.forget(heard)
    callers.keep("hash", Caller(client, None, found_at=now, steady=callers.is_steady(client)))
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


async def test_sessions_of_many_who_call_at_once_are_taken_in_few_transactions(world: World) -> None:
    tokens = []
    async with world.context.database.transaction() as session:
        for number in range(30):
            client = await invite_client(session, "trial", f"s{number}", ParticipantKind.IMAGE, timedelta(hours=1))
            tokens.append(client[1])
    callers = []
    for number, token in enumerate(tokens):
        answer = await world.agents.Enroll(pb.EnrollRequest(token=token, kind=types_pb2.CLIENT_KIND_IMAGE))
        callers.append((*bearer_metadata(answer.credential), *session_metadata(f"{number:016x}")))
    begun: Counter[str] = Counter()

    def count(_: Any) -> None:
        begun["write"] += 1

    event.listen(world.context.database.engine.sync_engine, "begin", count)
    calls = [world.agents.FetchTask(pb.FetchTaskRequest(), metadata=caller) for caller in callers]
    answers = await asyncio.gather(*calls)
    assert all(answer.HasField("idle") for answer in answers)
    # On PostgreSQL looks count, too: both engines are one.
    assert begun["write"] <= 12  # and not 30
