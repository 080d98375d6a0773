"""Folds that wait are claimed, worked on and completed together, with the bits that each has for itself."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import numpy as np
import pytest
from sqlalchemy import update
from tests.aggregator.crowd import CountingStore
from tests.aggregator.world import DIM, INTERNAL, World, refused

from fedafd.aggregator.claiming import Mover
from fedafd.aggregator.outbox import Outbox
from fedafd.artifacts.representations import encode_representations
from fedafd.distiller import client as distiller_client
from fedafd.distiller.shutdown import StageHandedBackError
from fedafd.domain.config import WireDtype
from fedafd.domain.kinds import FOLDS_TOGETHER, ClientKind, Modality, StageKind
from fedafd.domain.states import StageState
from fedafd.persistence.client_repository import get_client
from fedafd.persistence.models import StageRow, utc_now
from fedafd.persistence.participation_repository import find_participation
from fedafd.persistence.stage_repository import add_stage, list_stages
from fedafd.proto.v1 import aggregator_pb2 as agents_pb
from fedafd.proto.v1 import distillation_pb2 as pb

if TYPE_CHECKING:
    from fedafd.distiller.tasks import StageRunner

FOLD = StageKind.FOLD


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One database: tests/persistence has both claim."""
    return f"sqlite:///{tmp_path}/test.db"


def unit_rows(seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(6, DIM)).astype(np.float32)
    unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def reps_of(world: World, seed: int) -> bytes:
    both = {m: unit_rows(10 * seed + place) for place, m in enumerate(Modality)}
    return encode_representations(both, world.public_sha256, WireDtype.FLOAT16)


async def delivered_round(world: World, count: int, order: Sequence[int] | None = None) -> str:
    """A round that so many pair clients delivered to, whose folds wait."""
    callers = [await world.enrol(f"site-{number}", ClientKind.PAIR) for number in range(count)]
    round_id = await world.start_round()
    await world.distil(
        StageKind.PREPARE,
        server_state=b"state",
        representations=reps_of(world, 99),
        encoder_bundle__image=b"image",
        encoder_bundle__text=b"text",
    )
    for number in order or range(count):
        assert (await world.deliver(callers[number], round_id, reps_of(world, number))).accepted
    await world.coordinate()
    return round_id


async def folds(world: World, round_id: str) -> list[StageRow]:
    async with world.context.database.snapshot() as session:
        return [stage for stage in await list_stages(session, round_id) if stage.kind == FOLD]


async def states(world: World, round_id: str) -> Counter[str]:
    return Counter(stage.state for stage in await folds(world, round_id))


async def bits(world: World, round_id: str) -> dict[tuple[str, int], str]:
    return {
        (stage.modality, stage.position): (stage.outputs or {})["sed-state"]["sha256"]
        for stage in await folds(world, round_id)
    }


def first_announced(world: World) -> str:
    return next(stage for kind, stage in world.sent if kind is FOLD)


async def claim(world: World, stage_id: str, worker: str = "one", most: int = FOLDS_TOGETHER) -> pb.ClaimStageResponse:
    request = pb.ClaimStageRequest(stage_id=stage_id, worker=worker, most_companions=most)
    answer: pb.ClaimStageResponse = await world.distillers.ClaimStage(request, metadata=INTERNAL)
    return answer


# -- the distiller ---------------------------------------------------------------------------------------------------


async def test_one_message_has_all_waiting_folds_done_with_the_bits_of_each_for_itself(
    world: World, runner: StageRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = await delivered_round(world, 3, order=(2, 0, 1))
    object.__setattr__(world.context, "mover", Mover())  # nobody goes on with the merges
    reads: Counter[str] = Counter()
    monkeypatch.setattr(runner, "_store", CountingStore(world.context.store, reads))
    await asyncio.to_thread(runner.run, first_announced(world))
    assert await states(world, together) == {"done": 6}
    # Each client's representations once for both of its folds, and once the global ones.
    assert reads["get"] == 3 + 1
    found = await bits(world, together)

    async with world.context.database.transaction() as session:
        again = {"state": StageState.PENDING.value, "outputs": None, "worker": None}
        await session.execute(update(StageRow).where(StageRow.kind == FOLD.value).values(**again))
    monkeypatch.setattr(distiller_client, "FOLDS_TOGETHER", 1)
    for number, (_, stage_id) in enumerate([each for each in world.sent if each[0] is FOLD][::-1], start=1):
        await asyncio.to_thread(runner.run, stage_id)
        assert (await states(world, together))["done"] == number
    assert await bits(world, together) == found


async def test_a_delivery_that_the_store_lost_is_asked_for_again_and_the_others_count(
    world: World, runner: StageRunner
) -> None:
    round_id = await delivered_round(world, 3)
    (lost, *_) = [each for each in await folds(world, round_id) if each.position == 1]
    world.context.store.delete(lost.inputs["representations"]["key"])
    await asyncio.to_thread(runner.run, first_announced(world))
    assert await states(world, round_id) == {"done": 4, "cancelled": 2}
    async with world.context.database.snapshot() as session:
        ids = await list_stages(session, round_id)
        assert {each.position for each in ids if each.state == "cancelled"} == {1}


async def test_a_distiller_that_ends_completes_what_it_did_and_hands_back_the_rest(
    world: World, runner: StageRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    round_id = await delivered_round(world, 2)
    done = itertools.count(1)
    work = runner._work

    def until_told_to_end(*args: Any) -> Any:
        if next(done) > 2:
            raise StageHandedBackError("the process ends")
        return work(*args)

    monkeypatch.setattr(runner, "_work", until_told_to_end)
    await asyncio.to_thread(runner.run, first_announced(world))
    assert await states(world, round_id) == {"done": 2, "pending": 2}
    assert {stage.failures for stage in await folds(world, round_id)} == {0}
    monkeypatch.undo()
    await world.coordinate()
    await asyncio.to_thread(runner.run, [stage for kind, stage in world.sent if kind is FOLD][-1])
    assert await states(world, round_id) == {"done": 4}


async def test_folds_of_a_distiller_that_was_killed_are_done_by_another_one(world: World, runner: StageRunner) -> None:
    round_id = await delivered_round(world, 2)
    answer = await claim(world, first_announced(world), "killed")
    assert len(answer.companions) == 3
    async with world.context.database.transaction() as session:
        await session.execute(update(StageRow).values(alive_at=utc_now() - timedelta(hours=1)))
    world.sent.clear()
    world.has_led_for_long()
    await world.coordinate()
    assert await states(world, round_id) == {"pending": 4}
    await asyncio.to_thread(runner.run, first_announced(world))
    assert await states(world, round_id) == {"done": 4}


# -- the aggregator --------------------------------------------------------------------------------------------------


async def test_who_asks_again_gets_the_same_folds_and_tokens(world: World) -> None:
    await delivered_round(world, 2)
    first, again = [await claim(world, first_announced(world)) for _ in range(2)]
    for answer in (first, again):
        answer.ClearField("until_deadline")  # which the second is nearer to
    assert first == again
    assert [each.token for each in first.companions] == [1, 1, 1]


async def test_whose_fold_is_taken_gets_another_one_that_waits(world: World) -> None:
    round_id = await delivered_round(world, 3)
    stage_id = first_announced(world)
    one = await claim(world, stage_id, "one", most=1)
    two = await claim(world, stage_id, "two", most=1)
    three = await claim(world, stage_id, "three", most=9)
    answers = (one, two, three)
    claimed = [answer.stage_id for answer in answers]
    claimed += [companion.stage_id for answer in answers for companion in answer.companions]
    assert sorted(claimed) == sorted(stage.id for stage in await folds(world, round_id))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await claim(world, stage_id, "four")
    refused(raised, grpc.StatusCode.ABORTED, "stage-lost")


async def test_a_distiller_that_did_the_fold_before_gets_one_that_waits(world: World) -> None:
    round_id = await delivered_round(world, 3)
    stage_id = first_announced(world)
    first = await claim(world, stage_id, "one", most=1)
    request = pb.CompleteStageRequest(stage_id=first.stage_id, token=first.token)
    request.companions.add(stage_id=first.companions[0].stage_id, token=first.companions[0].token)
    await world.distillers.CompleteStage(request, metadata=INTERNAL)
    # The message of the fold that was a companion, or a second one of the first.
    done = {first.stage_id, first.companions[0].stage_id}
    second = await claim(world, first.companions[0].stage_id, "one", most=1)
    assert not done & {second.stage_id, second.companions[0].stage_id}
    await claim(world, stage_id, "one", most=9)
    assert await states(world, round_id) == {"done": 2, "running": 4}


async def test_who_asks_for_no_companions_gets_the_fold_or_nothing(world: World) -> None:
    await delivered_round(world, 2)
    assert not (await claim(world, first_announced(world), "old", most=0)).companions
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await claim(world, first_announced(world), "older", most=0)
    refused(raised, grpc.StatusCode.ABORTED, "stage-lost")


async def test_a_report_holds_for_the_companions_too(world: World) -> None:
    round_id = await delivered_round(world, 2)
    answer = await claim(world, first_announced(world), most=2)
    before = utc_now() - timedelta(hours=1)
    async with world.context.database.transaction() as session:
        await session.execute(update(StageRow).values(alive_at=before, last_progress_at=before))
    report = pb.ReportStageProgressRequest(
        stage_id=answer.stage_id, token=answer.token, alive_only=True, with_companions=True
    )
    await world.distillers.ReportStageProgress(report, metadata=INTERNAL)
    mine = {answer.stage_id, *(each.stage_id for each in answer.companions)}
    assert {stage.id for stage in await folds(world, round_id) if stage.alive_at > before} == mine
    assert all(stage.last_progress_at == before for stage in await folds(world, round_id))
    report.alive_only = False
    await world.distillers.ReportStageProgress(report, metadata=INTERNAL)
    assert {stage.id for stage in await folds(world, round_id) if stage.last_progress_at > before} == mine


async def test_one_companion_that_was_lost_costs_the_others_nothing(world: World) -> None:
    round_id = await delivered_round(world, 2)
    answer = await claim(world, first_announced(world))
    request = pb.CompleteStageRequest(stage_id=answer.stage_id, token=answer.token)
    for each in answer.companions:
        request.companions.add(stage_id=each.stage_id, token=each.token)
    lost = request.companions[1]
    lost.token += 1
    for _ in range(2):
        done = await world.distillers.CompleteStage(request, metadata=INTERNAL)
        assert list(done.lost_stage_ids) == [lost.stage_id]
    assert await states(world, round_id) == {"done": 3, "running": 1}
    assert {stage.id for stage in await folds(world, round_id) if stage.state == "running"} == {lost.stage_id}


async def test_one_message_announces_as_many_folds_as_are_claimed_with_it(world: World) -> None:
    await world.enrol("north")
    round_id = await world.start_round()
    await world.prepare()
    async with world.context.database.transaction() as session:
        for position in range(2 * FOLDS_TOGETHER + 3):
            await add_stage(session, round_id, FOLD, {}, modality=Modality.IMAGE, position=position)
        await add_stage(session, round_id, StageKind.MERGE, {}, level=1)
    sent: list[tuple[StageKind, str]] = []
    outbox = Outbox(
        world.context.database,
        lambda kind, stage: sent.append((kind, stage)),
        folds_together=FOLDS_TOGETHER,
    )
    assert await outbox.send() == 2 * FOLDS_TOGETHER + 4
    assert Counter(kind for kind, _ in sent) == {FOLD: 3, StageKind.MERGE: 1}
    assert await outbox.send() == 0
    claimed = set()
    for number, (_, stage_id) in enumerate(each for each in sent if each[0] is FOLD):
        answer = await claim(world, stage_id, f"distiller-{number}", most=100)
        claimed |= {answer.stage_id, *(each.stage_id for each in answer.companions)}
    assert claimed == {stage.id for stage in await folds(world, round_id)}


@pytest.mark.parametrize("kind", [StageKind.WEIGH, StageKind.MERGE])
async def test_one_message_announces_as_many_merges_and_a_late_one_brings_what_waits(
    world: World, kind: StageKind
) -> None:
    await world.enrol("north")
    round_id = await world.start_round()
    await world.prepare()
    count = FOLDS_TOGETHER + 2
    async with world.context.database.transaction() as session:
        for position in range(count):
            await add_stage(session, round_id, kind, {}, modality=Modality.IMAGE, position=position)
    sent: list[str] = []
    outbox = Outbox(world.context.database, lambda _, stage: sent.append(stage), folds_together=FOLDS_TOGETHER)
    assert await outbox.send() == count
    assert len(sent) == 2
    # Somebody went on with what the second message names, without any message.
    early = await claim(world, sent[1], "early", most=0)
    claimed = {early.stage_id}
    for worker, stage_id in (("second", sent[1]), ("first", sent[0])):
        answer = await claim(world, stage_id, worker, most=FOLDS_TOGETHER // 2)
        claimed |= {answer.stage_id, *(companion.stage_id for companion in answer.companions)}
    assert len(claimed) == count


async def test_a_lost_delivery_is_folded_with_what_is_sent_again(world: World, runner: StageRunner) -> None:
    caller = await world.enrol("alone", ClientKind.PAIR)
    round_id = await world.start_round()
    await world.distil(
        StageKind.PREPARE,
        server_state=b"state",
        representations=reps_of(world, 99),
        encoder_bundle__image=b"image",
        encoder_bundle__text=b"text",
    )
    blob = reps_of(world, 1)
    assert (await world.deliver(caller, round_id, blob)).accepted
    await world.coordinate()
    (stage, *_) = await folds(world, round_id)
    world.context.store.delete(stage.inputs["representations"]["key"])
    await asyncio.to_thread(runner.run, stage.id)
    task = await world.agents.FetchTask(agents_pb.FetchTaskRequest(), metadata=caller)
    assert task.HasField("train")
    assert (await world.deliver(caller, round_id, blob)).accepted
    await world.coordinate()
    await asyncio.to_thread(runner.run, [each for kind, each in world.sent if kind is FOLD][-1])
    assert await states(world, round_id) == {"done": 2}
    async with world.context.database.snapshot() as session:
        part = await find_participation(session, round_id, (await get_client(session, "trial", "alone")).id)
    assert part is not None
    assert part.state == "delivered"
