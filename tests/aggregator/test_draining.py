"""Drain mode: what runs goes on, nothing new starts; and a stage that is handed back is no failure."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from sqlalchemy import select, text
from tests.aggregator.world import INTERNAL, World

from fedafd.aggregator.coordinator import Coordinator
from fedafd.aggregator.outbox import Outbox
from fedafd.domain.kinds import StageKind
from fedafd.persistence.drain_repository import end_drain, start_drain
from fedafd.persistence.event_repository import events_after
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.lease_repository import COORDINATOR_LEASE, acquire_lease
from fedafd.persistence.models import LeaseRow
from fedafd.persistence.round_repository import add_rounds, list_open_rounds
from fedafd.persistence.stage_repository import get_stage
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.proto.v1 import distillation_pb2


async def test_a_drained_service_holds_queued_rounds_until_it_is_resumed(world: World) -> None:
    async with world.context.database.transaction() as session:
        await start_drain(session, "api-key:admin", "upgrade")
    round_id = await world.start_round()
    assert (await world.round(round_id)).state == "queued"
    async with world.context.database.transaction() as session:
        await end_drain(session, "api-key:admin")
    await world.coordinate()
    assert (await world.round(round_id)).state == "preparing"
    async with world.context.database.transaction() as session:
        kinds = [event.kind for event in await events_after(session, None, 0)]
    assert [kind for kind in kinds if kind.startswith("service.")] == ["service.drained", "service.resumed"]


async def test_no_round_starts_after_a_drain_that_saw_none_running(world: World) -> None:
    """A coordinator that looked before the drain began must not start a round after it."""
    database = world.context.database
    async with database.transaction() as session:
        federation = await get_federation(session, "trial")
        (row,) = await add_rounds(session, "trial", federation.config, world.public_sha256, 1)
    assert await acquired(world)
    async with database.transaction() as session:
        await start_drain(session, "api-key:admin", None)
        looking = asyncio.ensure_future(world.coordinate())
        await asyncio.sleep(0.5)
        assert [each.state for each in await list_open_rounds(session)] == ["queued"]
    await asyncio.wait_for(looking, 60)
    assert (await world.round(row.id)).state == "queued"


async def acquired(world: World) -> bool:
    """The coordinator's lease, without a look at rounds."""
    async with world.context.database.transaction() as session:
        name, holder = COORDINATOR_LEASE, world.coordinator.holder
        return await acquire_lease(session, name, holder, timedelta(seconds=60)) is not None


async def test_a_drained_service_lets_a_running_round_go_on(world: World) -> None:
    await world.enrol("north")
    round_id = await world.start_round()
    async with world.context.database.transaction() as session:
        await start_drain(session, "api-key:admin", None)
    await world.prepare()
    assert (await world.round(round_id)).state == "collecting"


async def test_a_draining_aggregator_answers_long_polls_at_once(world: World) -> None:
    caller = await world.enrol("north")
    idle = await world.agents.FetchTask(pb.FetchTaskRequest(), metadata=caller)
    request = pb.FetchTaskRequest(known_revision=idle.revision)
    request.wait.FromTimedelta(timedelta(seconds=60))
    polling = asyncio.ensure_future(world.agents.FetchTask(request, metadata=caller))
    await asyncio.sleep(0.5)
    assert not polling.done()
    world.context.drain()
    assert (await asyncio.wait_for(polling, 30)).revision == idle.revision


async def test_a_lease_is_not_written_with_each_look_and_renewed_long_before_it_runs_out(world: World) -> None:
    outbox = Outbox(world.context.database, lambda kind, stage: None)
    coordinator = Coordinator(world.context, outbox, lease_seconds=3600)
    ends = []
    for passed_seconds in (0.0, 0.0, 400.0):
        coordinator._renewed_at -= passed_seconds
        await coordinator.look()
        assert coordinator.leading
        async with world.context.database.snapshot() as session:
            ends.append((await session.scalars(select(LeaseRow.expires_at))).one())
    assert ends[0] == ends[1] < ends[2]


async def test_a_draining_coordinator_gives_its_lease_up(world: World) -> None:
    database = world.context.database
    first = Coordinator(world.context, Outbox(database, lambda kind, stage: None), lease_seconds=3600)
    assert await first.look() is False
    assert first.leading
    running = asyncio.ensure_future(first.run())
    world.context.drain()
    await asyncio.wait_for(running, 30)
    async with database.transaction() as session:
        assert await acquire_lease(session, "coordinator", "another", timedelta(seconds=10)) is not None
    assert _leader(world) == 0


async def test_a_coordinator_without_its_database_does_not_say_that_it_leads_and_still_ends(world: World) -> None:
    assert await world.coordinator.look() is False
    assert _leader(world) == 1
    async with world.context.database.transaction() as session:
        await session.execute(text("ALTER TABLE leases RENAME TO away"))
    running = asyncio.ensure_future(world.coordinator.run())
    for _ in range(600):
        if _leader(world) == 0:
            break
        await asyncio.sleep(0.05)
    assert _leader(world) == 0
    world.context.drain()
    await asyncio.wait_for(running, 30)


def _leader(world: World) -> float | None:
    return world.context.metrics.metrics.registry.get_sample_value("fedafd_aggregator_coordinator_leader")


async def test_a_stage_that_is_handed_back_is_offered_again_and_counts_no_failure(world: World) -> None:
    await world.start_round()
    stage_id = world.sent[-1][1]
    for _ in range(5):
        claim = await world.distillers.ClaimStage(
            distillation_pb2.ClaimStageRequest(stage_id=stage_id, worker="ending"), metadata=INTERNAL
        )
        request = distillation_pb2.FailStageRequest(
            stage_id=stage_id, token=claim.token, reason="shutting down", retryable=True, handed_back=True
        )
        await world.distillers.FailStage(request, metadata=INTERNAL)
    async with world.context.database.transaction() as session:
        stage, _ = await get_stage(session, stage_id)
    assert (stage.state, stage.failures) == ("pending", 0)
    await world.coordinate()
    assert world.sent[-1] == (StageKind.PREPARE, stage_id)
    await world.prepare()
