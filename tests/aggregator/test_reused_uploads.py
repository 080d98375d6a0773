"""What clients sent before and what they send beside: stale representations, and weights that are averaged."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from safetensors.numpy import save
from tests.aggregator.world import World

from fedafd.artifacts.weight_updates import group_name, layout_of
from fedafd.domain.kinds import ClientKind, StageKind
from fedafd.proto.v1 import aggregator_pb2 as pb

Caller = tuple[tuple[str, str], ...]


async def finished(world: World, folds: int) -> list[list[str]]:
    """Let the distiller do the rest of a round; the input names of its folds."""
    names = [
        await world.distil(StageKind.FOLD, nth=place - folds, sed_state=b"sed %d" % place) for place in range(folds)
    ]
    if folds > 1:
        await world.distil(StageKind.MERGE, sed_state=b"merged")
    await world.distil(StageKind.DISTIL, server_state=b"distilled")
    await world.distil(StageKind.EVALUATE, server_state=b"distilled", model__config=b"{}")
    return names


async def first_round(world: World, **config: object) -> tuple[Caller, Caller]:
    early, late = await world.enrol("early"), await world.enrol("late")
    round_id = await world.start_round(**config)
    await world.prepare()
    for caller in (early, late):
        assert (await world.deliver(caller, round_id, world.reps())).accepted
    await world.coordinate()
    await finished(world, 2)
    assert (await world.round(round_id)).state == "completed"
    return early, late


async def second_round(world: World, early: Caller, late: Caller, **config: object) -> str:
    round_id = await world.start_round(**config)
    await world.prepare()
    assert (await world.deliver(early, round_id, world.reps())).accepted
    await world.agents.LeaveRound(
        pb.LeaveRoundRequest(round_id=round_id, leave_reason=pb.LEAVE_REASON_OUT_OF_MEMORY), metadata=late
    )
    await world.coordinate()
    return round_id


async def test_what_a_late_client_sent_before_counts_with_its_age(world: World) -> None:
    decay: dict[str, Any] = {"distillation": {"staleness_decay": 0.5}}
    callers = await first_round(world, **decay)
    round_id = await second_round(world, *callers, **decay)
    names = await finished(world, 2)
    assert sorted(name for fold in names for name in fold if "rep" in name and "global" not in name) == [
        "representations",
        "stale-representations/1",
    ]
    assert (await world.round(round_id)).state == "completed"


async def test_by_default_a_late_client_is_left_out(world: World) -> None:
    callers = await first_round(world)
    round_id = await second_round(world, *callers)
    assert await finished(world, 1) == [["representations", "global-representations"]]
    assert (await world.round(round_id)).state == "completed"


async def test_what_is_too_old_or_written_otherwise_is_left_out(world: World) -> None:
    callers = await first_round(world)
    decay: dict[str, Any] = {"distillation": {"staleness_decay": 0.5}}
    round_id = await world.start_round(**decay, wire_dtype="float32")
    await world.prepare()
    assert (await world.deliver(callers[0], round_id, world.reps(dtype="float32"))).accepted
    await world.agents.LeaveRound(
        pb.LeaveRoundRequest(round_id=round_id, leave_reason=pb.LEAVE_REASON_OUT_OF_MEMORY), metadata=callers[1]
    )
    await world.coordinate()
    assert await finished(world, 1) == [["representations", "global-representations"]]


def weights(samples: int = 3, kind: ClientKind = ClientKind.IMAGE) -> bytes:
    tensors = {"model/w": np.ones((2, 2), dtype=np.float32)}
    group = group_name(kind, layout_of({"model/w": ("float32", (2, 2))}), "abc")
    return save(tensors, metadata={"meta": json.dumps({"group": group, "num_private_samples": samples})})


async def delivered(world: World, caller: Caller, round_id: str, *blobs: bytes) -> pb.CommitUploadResponse:
    ids = [await world.upload(caller, round_id, world.reps())]
    ids += [await world.upload(caller, round_id, blob, "weights") for blob in blobs]
    answer: pb.CommitUploadResponse = await world.agents.CommitUpload(
        pb.CommitUploadRequest(round_id=round_id, upload_ids=ids), metadata=caller
    )
    return answer


AVERAGING: dict[str, object] = {"averaging": "weights", "client": {"vocabulary": "public"}}


async def test_weights_are_averaged_and_offered_to_their_kind_in_the_next_round(world: World) -> None:
    image, text = await world.enrol("a"), await world.enrol("b")
    round_id = await world.start_round(**AVERAGING)
    await world.prepare()
    for caller, samples in ((image, 3), (text, 5)):
        assert (await delivered(world, caller, round_id, weights(samples))).accepted
    await world.coordinate()
    for nth in (-2, -1):
        await world.distil(StageKind.FOLD, nth=nth, sed_state=b"sed")
    await world.distil(StageKind.MERGE, sed_state=b"merged")
    averages: dict[str, Any] = {"weights__image-1-2": b"image average", "weights__text-1-2": b"text average"}
    names = await world.distil(StageKind.DISTIL, server_state=b"distilled", **averages)
    assert [name for name in names if name.startswith("weights/")] == ["weights/000000", "weights/000001"]
    await world.distil(StageKind.EVALUATE, server_state=b"distilled", model__config=b"{}")
    await world.start_round(**AVERAGING)
    await world.prepare()
    task = (await world.agents.FetchTask(pb.FetchTaskRequest(), metadata=image)).train
    assert [artifact.purpose for artifact in task.averaged_weights] == ["weights/image-1-2"]


async def test_weights_that_cannot_be_averaged_are_rejected(world: World) -> None:
    caller = await world.enrol("a")
    round_id = await world.start_round(**AVERAGING)
    await world.prepare()
    receipt = await delivered(world, caller, round_id, weights(kind=ClientKind.TEXT))
    assert not receipt.accepted
    assert "their tensors make image-" in receipt.rejection_reason


async def test_a_delivery_without_weights_is_rejected_where_they_are_averaged(world: World) -> None:
    caller = await world.enrol("a")
    round_id = await world.start_round(**AVERAGING)
    await world.prepare()
    receipt = await delivered(world, caller, round_id)
    assert receipt.rejection_reason == "this federation averages weights, and the delivery holds none; update the agent"
