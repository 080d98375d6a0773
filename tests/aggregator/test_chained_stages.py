"""Who completes a stage goes on with the next one of the round, with no message between, and nothing is lost."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
from sqlalchemy import update
from tests.aggregator.world import DIM, INTERNAL, World

from fedafd.aggregator.claiming import Mover
from fedafd.artifacts.representations import encode_representations
from fedafd.domain.config import WireDtype
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import ClientKind, Modality, StageKind
from fedafd.domain.states import RoundState, StageState
from fedafd.persistence.models import StageRow, utc_now
from fedafd.proto.v1 import distillation_pb2 as pb
from fedafd.proto.v1 import types_pb2
from fedafd.rpc.codes import stage_kind_from_wire

OUTPUTS = {
    StageKind.FOLD: ("sed-state",),
    StageKind.MERGE: ("sed-state",),
    StageKind.DISTIL: ("server-state",),
    StageKind.EVALUATE: ("server-state", "model/config.json"),
}


def both(world: World) -> bytes:
    rows_ND = np.eye(6, DIM, dtype=np.float32)
    return encode_representations(dict.fromkeys(Modality, rows_ND), world.public_sha256, WireDtype.FLOAT16)


async def claimed_folds(world: World) -> pb.ClaimStageResponse:
    """Of a round that a pair client delivered to, both held by one worker."""
    caller = await world.enrol("pairs", ClientKind.PAIR)
    round_id = await world.start_round()
    await world.prepare()
    assert (await world.deliver(caller, round_id, both(world))).accepted
    await world.coordinate()
    return await claim(world, next(stage for kind, stage in world.sent if kind is StageKind.FOLD), "first")


async def claim(world: World, stage_id: str, worker: str) -> pb.ClaimStageResponse:
    request = pb.ClaimStageRequest(stage_id=stage_id, worker=worker, most_companions=15)
    answer: pb.ClaimStageResponse = await world.distillers.ClaimStage(request, metadata=INTERNAL)
    return answer


def result(world: World, claimed: pb.ClaimStageResponse, *, takes_next: bool = True) -> pb.CompleteStageRequest:
    """What completes the stage, and those that are held with it."""
    done = []
    stages: tuple[pb.ClaimStageResponse | pb.Companion, ...] = (claimed, *claimed.companions)
    for each in stages:
        outputs = []
        for name in OUTPUTS[stage_kind_from_wire(claimed.kind)]:
            content = f"{name} {each.stage_id}".encode()
            sha256 = sha256_of(content)
            key = f"{claimed.output_prefix}{name}/{sha256}"
            world.context.store.put(key, content)
            artifact = types_pb2.Artifact(sha256=sha256, size_bytes=len(content), purpose=name, key=key)
            outputs.append(pb.NamedArtifact(name=name, artifact=artifact))
        done.append(pb.CompleteStageRequest(stage_id=each.stage_id, token=each.token, outputs=outputs))
    done[0].companions.extend(done[1:])
    done[0].takes_next = takes_next
    return done[0]


async def complete(world: World, request: pb.CompleteStageRequest) -> pb.CompleteStageResponse:
    answer: pb.CompleteStageResponse = await world.distillers.CompleteStage(request, metadata=INTERNAL)
    return answer


async def state(world: World, stage_id: str) -> str:
    async with world.context.database.snapshot() as session:
        return (await session.get_one(StageRow, stage_id)).state


async def test_from_the_last_fold_on_a_round_needs_no_message_and_no_look(world: World) -> None:
    held = await claimed_folds(world)
    round_id, kinds = held.round_id, []
    world.sent.clear()
    while held.stage_id:
        kinds.append((stage_kind_from_wire(held.kind), 1 + len(held.companions)))
        held = (await complete(world, result(world, held))).next
    assert kinds == [(StageKind.FOLD, 2), (StageKind.DISTIL, 1), (StageKind.EVALUATE, 1)]
    assert (await world.round(round_id)).state == RoundState.COMPLETED.value
    await world.coordinate()
    assert world.sent == []


async def test_merges_of_both_modalities_are_given_together(world: World) -> None:
    callers = [await world.enrol(f"pairs-{number}", ClientKind.PAIR) for number in range(2)]
    round_id = await world.start_round()
    await world.prepare()
    for caller in callers:
        assert (await world.deliver(caller, round_id, both(world))).accepted
    await world.coordinate()
    held = await claim(world, next(stage for kind, stage in world.sent if kind is StageKind.FOLD), "first")
    merges = (await complete(world, result(world, held))).next
    assert stage_kind_from_wire(merges.kind) is StageKind.MERGE
    assert len(merges.companions) == 1
    assert {merges.modality, merges.companions[0].modality} == {types_pb2.MODALITY_IMAGE, types_pb2.MODALITY_TEXT}


async def test_an_answer_that_was_lost_is_given_again(world: World) -> None:
    request = result(world, await claimed_folds(world))
    first, second = (await complete(world, request)).next, (await complete(world, request)).next
    assert first.stage_id == second.stage_id
    assert first.token == second.token == 1


async def test_who_does_not_ask_for_more_is_given_nothing(world: World) -> None:
    answer = await complete(world, result(world, await claimed_folds(world), takes_next=False))
    assert not answer.HasField("next")
    await world.coordinate()
    assert world.sent[-1][0] is StageKind.DISTIL


async def test_where_another_aggregator_coordinates_a_message_tells_of_the_next_stage(world: World) -> None:
    request = result(world, await claimed_folds(world))
    object.__setattr__(world.context, "mover", Mover())
    assert not (await complete(world, request)).HasField("next")
    await world.coordinate()
    assert world.sent[-1][0] is StageKind.DISTIL


async def test_a_stage_given_to_a_distiller_that_died_is_offered_to_others_and_the_dead_ones_result_refused(
    world: World,
) -> None:
    given = (await complete(world, result(world, await claimed_folds(world)))).next
    world.sent.clear()
    world.has_led_for_long()
    async with world.context.database.transaction() as session:
        long_ago = utc_now() - timedelta(minutes=1)
        await session.execute(update(StageRow).where(StageRow.id == given.stage_id).values(alive_at=long_ago))
    await world.coordinate()
    assert world.sent == [(StageKind.DISTIL, given.stage_id)]
    again = await claim(world, given.stage_id, "second")
    assert again.token == given.token + 1
    assert [each.name for each in again.inputs] == [each.name for each in given.inputs]
    assert await state(world, given.stage_id) == StageState.RUNNING.value
    held = again
    while held.stage_id:
        held = (await complete(world, result(world, held))).next
    assert (await world.round(given.round_id)).state == RoundState.COMPLETED.value
