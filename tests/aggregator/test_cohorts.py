"""A round that draws its cohort invites sites that are online, waits for nobody else, and counts its quorum in it."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest
from sqlalchemy import update
from tests.aggregator.world import World

from fedafd.aggregator.coordinator import Coordinator
from fedafd.domain.cohorts import Candidate, draw_cohort
from fedafd.domain.config import CohortConfig, QuorumConfig
from fedafd.domain.kinds import ClientKind, ParticipantKind, StageKind
from fedafd.domain.states import RoundState, StageState
from fedafd.persistence.event_repository import events_after
from fedafd.persistence.models import ClientRow, StageRow, utc_now
from fedafd.persistence.participation_repository import list_participations
from fedafd.persistence.stage_repository import list_stages
from fedafd.proto.v1 import aggregator_pb2 as pb

Caller = tuple[tuple[str, str], ...]
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def join(world: World, *names: str, kind: ClientKind = ClientKind.IMAGE) -> dict[str, Caller]:
    """Sites whose agents wait for a round."""
    callers = {name: await world.enrol(name, kind) for name in names}
    for caller in callers.values():
        await world.agents.FetchTask(pb.FetchTaskRequest(), metadata=caller)
    return callers


async def invited(world: World, round_id: str) -> list[str]:
    async with world.context.database.snapshot() as session:
        return [client.name for _, client in await list_participations(session, round_id)]


async def leave(world: World, *names: str) -> None:
    """Their agents died a while ago."""
    async with world.context.database.transaction() as session:
        gone = update(ClientRow).where(ClientRow.name.in_(names))
        await session.execute(gone.values(session_until=utc_now() - timedelta(seconds=1)))


async def work(world: World, round_id: str, kind: StageKind, /, **outputs: bytes) -> None:
    """Do the round's stages of a kind that wait, whichever was announced last."""
    async with world.context.database.snapshot() as session:
        stages = await list_stages(session, round_id)
    announced = [stage for sent, stage in world.sent if sent is kind]
    for stage in stages:
        if stage.kind == kind.value and stage.state == StageState.PENDING.value:
            await world.distil(kind, nth=announced.index(stage.id), **outputs)


async def finish(world: World, round_id: str, callers: dict[str, Caller]) -> None:
    for name in await invited(world, round_id):
        assert (await world.deliver(callers[name], round_id, world.reps())).accepted
        await world.coordinate()
        await work(world, round_id, StageKind.FOLD, sed_state=f"sed of {name} {round_id}".encode())
    await work(world, round_id, StageKind.MERGE, sed_state=b"merged")
    await work(world, round_id, StageKind.DISTIL, server_state=round_id.encode())
    await work(world, round_id, StageKind.EVALUATE, server_state=round_id.encode(), model__config=b"{}")
    assert (await world.round(round_id)).state == RoundState.COMPLETED.value


async def test_rounds_invite_samples_of_those_online_and_each_as_often(world: World) -> None:
    callers = await join(world, "a", "b", "c", "d")
    await world.enrol("never-came")
    counts: Counter[str] = Counter()
    for _ in range(2):
        round_id = await world.start_round(cohort={"size": 2})
        await world.prepare()
        names = await invited(world, round_id)
        counts.update(names)
        others = callers.keys() - set(names)
        for name, caller in callers.items():
            task = await world.agents.FetchTask(pb.FetchTaskRequest(), metadata=caller)
            assert task.HasField("train") is (name not in others)
        await finish(world, round_id, callers)
        row = await world.round(round_id)
        assert (len(names), row.num_online) == (2, 4)
    assert counts == {"a": 1, "b": 1, "c": 1, "d": 1}
    async with world.context.database.snapshot() as session:
        drawn = [e.data for e in await events_after(session, "trial", 0) if e.kind == "round.cohort_drawn"]
    assert [(each["num_invited"], each["num_online"]) for each in drawn] == [(2, 4), (2, 4)]


async def test_who_takes_over_draws_what_the_one_before_would_have(world: World) -> None:
    await join(world, *"abcdef")
    round_id = await world.start_round(cohort={"fraction": 0.5, "seed": 5})
    await world.coordinator._release()
    send = world.coordinator._outbox
    world.coordinator = Coordinator(world.context, send)
    await world.prepare()
    sites = [Candidate(name, ParticipantKind.IMAGE, 0) for name in "abcdef"]
    drawn = draw_cohort(CohortConfig(fraction=0.5, seed=5), QuorumConfig(), 0, 1, sites)
    assert await invited(world, round_id) == [each.name for each in drawn]
    assert len(drawn) == 3


async def test_a_round_waits_until_those_online_can_reach_the_quorum_then_for_no_one_else(world: World) -> None:
    callers = await join(world, "a", "b")
    await leave(world, "b")
    round_id = await world.start_round(cohort={"fraction": 1.0}, quorum={"min_clients": 2})
    await world.prepare()
    assert (await world.round(round_id)).state == RoundState.PREPARING.value
    callers |= await join(world, "c")
    await world.coordinate()
    assert await invited(world, round_id) == ["a", "c"]
    await finish(world, round_id, callers)


async def test_a_round_that_nobody_comes_to_fails_and_says_what_was_missing(world: World) -> None:
    await join(world, "a")
    round_id = await world.start_round(cohort={"size": 3}, quorum={"min_clients": 2, "min_text_clients": 1})
    await world.prepare()
    async with world.context.database.transaction() as session:
        prepared = update(StageRow).where(StageRow.round_id == round_id)
        await session.execute(prepared.values(finished_at=utc_now() - timedelta(hours=1)))
    await world.coordinate()
    row = await world.round(round_id)
    assert row.state == RoundState.FAILED.value
    assert row.reason == (
        "quorum not reached: 1 of 2 sites, 0 of 1 sites with text representations are online after 300 s;"
        " start their agents, then start a round"
    )


async def test_without_a_cohort_every_enrolled_site_is_invited(world: World) -> None:
    await world.enrol("away")
    await join(world, "here")
    round_id = await world.start_round()
    await world.prepare()
    assert await invited(world, round_id) == ["away", "here"]
    assert (await world.round(round_id)).num_online is None
