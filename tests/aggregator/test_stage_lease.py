"""A distiller that dies loses its stage in seconds; one that lives keeps it; no result counts twice."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import grpc
import grpc.aio
import pytest
from tests.aggregator.world import INTERNAL, World, refused

from fedafd.aggregator.coordinator import Coordinator
from fedafd.aggregator.outbox import Outbox
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import StageKind
from fedafd.persistence.event_repository import events_after
from fedafd.persistence.models import utc_now
from fedafd.persistence.round_repository import get_round
from fedafd.persistence.stage_repository import get_stage
from fedafd.proto.v1 import aggregator_pb2
from fedafd.proto.v1 import distillation_pb2 as pb

LEASE_SECONDS = 1.0


async def claim(world: World, stage_id: str, worker: str = "doomed") -> pb.ClaimStageResponse:
    answer: pb.ClaimStageResponse = await world.distillers.ClaimStage(
        pb.ClaimStageRequest(stage_id=stage_id, worker=worker), metadata=INTERNAL
    )
    return answer


async def report(world: World, stage_id: str, token: int, *, alive_only: bool) -> bool:
    request = pb.ReportStageProgressRequest(
        stage_id=stage_id, token=token, alive_only=alive_only, fraction=0.5, activity="public pass 1 of 2"
    )
    return bool((await world.distillers.ReportStageProgress(request, metadata=INTERNAL)).keep_going)


async def until_offered_again(world: World, sent_before: int) -> None:
    for _ in range(200):
        await world.coordinate()
        if len(world.sent) > sent_before:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the stage was never offered again")


async def test_a_claim_tells_its_lease(world: World) -> None:
    await world.start_round()
    assert (await claim(world, world.sent[-1][1])).lease.ToMilliseconds() == LEASE_SECONDS * 1000


async def test_a_claim_tells_how_long_the_round_may_last(world: World) -> None:
    round_id = await world.start_round(round_deadline_seconds=600)
    (_, stage_id) = world.sent[-1]
    # The clock runs from when sites are invited.
    assert not (await claim(world, stage_id)).HasField("until_deadline")
    for seconds, told in ((600, range(590, 601)), (-5, range(1))):
        async with world.context.database.transaction() as session:
            (await get_round(session, round_id)).deadline_at = utc_now() + timedelta(seconds=seconds)
        assert (await claim(world, stage_id)).until_deadline.seconds in told


async def test_a_look_at_a_round_that_has_ended_meanwhile_does_nothing(world: World) -> None:
    round_id = await world.start_round()
    async with world.context.database.snapshot() as session:
        before = await get_round(session, round_id)
    async with world.context.database.transaction() as session:
        row = await get_round(session, round_id)
        row.state = "cancelled"
    assert await world.coordinator._step(before, 1) is False


async def test_a_stage_whose_distiller_is_silent_is_offered_again_and_the_old_claim_is_void(world: World) -> None:
    round_id = await world.start_round()
    (_, stage_id) = world.sent[-1]
    old = await claim(world, stage_id)
    await until_offered_again(world, 1)
    assert world.sent[-1] == (StageKind.PREPARE, stage_id)
    new = await claim(world, stage_id, "second")
    assert new.token == old.token + 1
    assert new.seed == old.seed

    assert not await report(world, stage_id, old.token, alive_only=True)
    assert not await report(world, stage_id, old.token, alive_only=False)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.distillers.CompleteStage(
            pb.CompleteStageRequest(stage_id=stage_id, token=old.token), metadata=INTERNAL
        )
    refused(raised, grpc.StatusCode.ABORTED, "stage-lost")
    assert (await world.round(round_id)).state == "preparing"
    async with world.context.database.transaction() as session:
        events = [event for event in await events_after(session, "trial", 0) if event.kind == "stage.lost"]
    assert [event.data["reason"] for event in events] == ["lost its distiller: doomed"]
    failures = world.context.metrics.metrics.registry.get_sample_value
    assert failures("fedafd_aggregator_stage_failures_total", {"kind": "prepare"}) == 1


@pytest.mark.parametrize("alive_only", [True, False], ids=["alive", "steps"])
async def test_a_distiller_that_reports_keeps_its_stage_beyond_the_lease(world: World, alive_only: bool) -> None:
    await world.start_round()
    (_, stage_id) = world.sent[-1]
    claimed = await claim(world, stage_id)
    for _ in range(12):
        assert await report(world, stage_id, claimed.token, alive_only=alive_only)
        await world.coordinate()
        await asyncio.sleep(LEASE_SECONDS / 5)
    assert len(world.sent) == 1
    async with world.context.database.transaction() as session:
        stage, _ = await get_stage(session, stage_id)
    assert (stage.state, stage.attempt, stage.failures) == ("running", 1, 0)
    assert stage.progress == (0.0 if alive_only else 0.5)


async def test_a_distiller_that_lives_without_a_step_loses_its_stage_at_the_idle_timeout(world: World) -> None:
    await world.start_round(idle_timeout_seconds=1.5)
    (_, stage_id) = world.sent[-1]
    claimed = await claim(world, stage_id)
    for _ in range(100):
        await report(world, stage_id, claimed.token, alive_only=True)
        await world.coordinate()
        if len(world.sent) > 1:
            return
        await asyncio.sleep(0.1)
    raise AssertionError("the hanging stage was never offered again")


async def test_a_stage_that_loses_three_distillers_fails_its_round_with_the_reason(world: World) -> None:
    await world.enrol("north")
    round_id = await world.start_round()
    for number in (1, 2):
        await claim(world, world.sent[-1][1], f"gpu-{number}")
        await until_offered_again(world, number)
    await claim(world, world.sent[-1][1], "gpu-3")
    for _ in range(200):
        await world.coordinate()
        row = await world.round(round_id)
        if row.state == "failed":
            break
        await asyncio.sleep(0.05)
    assert row.reason is not None
    assert row.reason.startswith("stage prepare lost its distiller 3 times, last gpu-3: the process ended or hung")
    failures = world.context.metrics.metrics.registry.get_sample_value
    assert failures("fedafd_aggregator_stage_failures_total", {"kind": "prepare"}) == 3


async def test_a_new_coordinator_gives_distillers_a_lease_to_report(world: World) -> None:
    """While no aggregator was there, nobody could renew: silence from then proves nothing."""
    await world.start_round()
    (_, stage_id) = world.sent[-1]
    claimed = await claim(world, stage_id)
    await world.coordinator._release()
    await asyncio.sleep(LEASE_SECONDS * 1.5)
    fresh = Coordinator(
        world.context, Outbox(world.context.database, lambda kind, stage: world.sent.append((kind, stage)))
    )
    assert not await fresh.look()
    assert await report(world, stage_id, claimed.token, alive_only=True)
    assert len(world.sent) == 1


async def test_a_result_that_comes_twice_counts_once(world: World) -> None:
    await world.start_round()
    (_, stage_id) = world.sent[-1]
    claimed = await claim(world, stage_id)
    request = pb.CompleteStageRequest(stage_id=stage_id, token=claimed.token, metrics={"loss": 1.0})
    await world.distillers.CompleteStage(request, metadata=INTERNAL)
    request.metrics["loss"] = 2.0
    await world.distillers.CompleteStage(request, metadata=INTERNAL)
    async with world.context.database.transaction() as session:
        stage, _ = await get_stage(session, stage_id)
    assert stage.metrics == {"loss": 1.0}


async def state_of(world: World, stage_id: str) -> tuple[str, int, int]:
    async with world.context.database.transaction() as session:
        stage, _ = await get_stage(session, stage_id)
    return stage.state, stage.attempt, stage.failures


async def test_a_distiller_that_was_cut_off_has_its_stage_back_and_no_strike(world: World) -> None:
    await world.start_round()
    (_, stage_id) = world.sent[-1]
    claimed = await claim(world, stage_id)
    for number in range(1, 5):
        await until_offered_again(world, number)
        assert await state_of(world, stage_id) == ("pending", 1, 1)
        assert await report(world, stage_id, claimed.token, alive_only=bool(number % 2))
        assert await state_of(world, stage_id) == ("running", 1, 0)
    await until_offered_again(world, 5)
    request = pb.CompleteStageRequest(stage_id=stage_id, token=claimed.token)
    await world.distillers.CompleteStage(request, metadata=INTERNAL)
    assert (await state_of(world, stage_id))[0] == "done"


async def test_a_distiller_that_was_cut_off_while_another_took_its_stage_leaves_no_strike(world: World) -> None:
    await world.start_round()
    (_, stage_id) = world.sent[-1]
    old = await claim(world, stage_id)
    await until_offered_again(world, 1)
    await claim(world, stage_id, "second")
    assert await state_of(world, stage_id) == ("running", 2, 1)
    assert not await report(world, stage_id, old.token, alive_only=True)
    assert await state_of(world, stage_id) == ("running", 2, 0)


async def test_an_outage_is_no_strike_however_often_it_comes(world: World) -> None:
    round_id = await world.start_round()
    (_, stage_id) = world.sent[-1]
    for number in range(5):
        claimed = await claim(world, stage_id)
        request = pb.FailStageRequest(stage_id=stage_id, token=claimed.token, reason="store away", outage=True)
        await world.distillers.FailStage(request, metadata=INTERNAL)
        assert await state_of(world, stage_id) == ("pending", number + 1, 0)
        assert not await report(world, stage_id, claimed.token, alive_only=True), "what was given up is not taken back"
        await world.coordinate()
    assert (await world.round(round_id)).state == "preparing"


async def test_an_outage_that_outlasts_the_deadline_fails_the_round_with_its_words(world: World) -> None:
    await world.enrol("north")
    round_id = await world.start_round()
    async with world.context.database.transaction() as session:
        (await get_round(session, round_id)).deadline_at = utc_now()
    (_, stage_id) = world.sent[-1]
    claimed = await claim(world, stage_id)
    request = pb.FailStageRequest(stage_id=stage_id, token=claimed.token, reason="store away", outage=True)
    await world.distillers.FailStage(request, metadata=INTERNAL)
    await world.coordinate()
    row = await world.round(round_id)
    assert (row.state, row.reason) == ("failed", "stage prepare failed: store away")


async def test_a_claim_whose_answer_was_lost_is_given_again(world: World) -> None:
    await world.start_round()
    (_, stage_id) = world.sent[-1]
    claims = [await claim(world, stage_id) for _ in range(4)]
    assert {each.token for each in claims} == {1}
    assert await state_of(world, stage_id) == ("running", 1, 0)


class Forgetful:
    """A broker's memory that a test can wipe."""

    def __init__(self) -> None:
        self.marked = False

    def intact(self) -> bool:
        return self.marked

    def remember(self) -> None:
        self.marked = True


async def test_what_a_flushed_broker_lost_is_announced_again_at_once(world: World) -> None:
    memory = Forgetful()
    outbox = Outbox(world.context.database, lambda kind, stage: world.sent.append((kind, stage)), memory)
    await outbox.send()
    await world.start_round()
    await outbox.send()
    (first,) = world.sent
    memory.marked = False
    assert await outbox.send() == 1
    assert world.sent == [first, first]
    assert await outbox.send() == 0


async def test_a_flushed_broker_makes_no_noise_about_a_stage_that_is_claimed(world: World) -> None:
    memory = Forgetful()
    outbox = Outbox(world.context.database, lambda kind, stage: world.sent.append((kind, stage)), memory)
    await world.start_round()
    await claim(world, world.sent[-1][1])
    memory.marked = False
    assert await outbox.send() == 0


async def test_a_message_that_a_distiller_lost_is_sent_again_once_none_waits_in_the_broker(world: World) -> None:
    waiting = [1]
    outbox = Outbox(
        world.context.database,
        lambda kind, stage: world.sent.append((kind, stage)),
        waiting=lambda: waiting[0],
        overdue_seconds=0.4,
    )
    await world.start_round()
    (first,) = world.sent
    await asyncio.sleep(0.5)
    assert await outbox.send() == 0, "a message that still waits is not doubled"
    waiting[0] = 0
    await asyncio.sleep(0.3)
    assert await outbox.send() == 1
    assert world.sent == [first, first]
    await asyncio.sleep(0.3)
    assert await outbox.send() == 0, "the new message has its time too"
    await claim(world, first[1])
    await asyncio.sleep(0.5)
    assert await outbox.send() == 0


async def test_every_call_of_an_agent_is_a_sign_of_its_presence(world: World) -> None:
    caller = await world.enrol("north")
    await world.agents.FetchTask(aggregator_pb2.FetchTaskRequest(), metadata=caller)
    round_id = await world.start_round()
    await world.prepare()
    progress = aggregator_pb2.ReportProgressRequest(
        round_id=round_id, fraction=0.1, doing="CLIENT_ACTIVITY_TRAINING", step=1, steps=5
    )
    await world.agents.ReportProgress(progress, metadata=caller)
    download = aggregator_pb2.DownloadArtifactRequest(sha256=sha256_of(b"reps"))
    assert [part.data async for part in world.agents.DownloadArtifact(download, metadata=caller)] == [b"reps"]
    await world.deliver(caller, round_id, world.reps())
    assert {call[:2] for call in world.seen} == {("trial", "north")}
    assert list(dict.fromkeys(call[2] for call in world.seen)) == [
        "waiting for a task",
        "local epoch 1 of 5",
        "downloading representations",
        "uploading representations",
        "delivering",
    ]
