"""Between folds and merges: a copy of the global representations is left out, the bits depend on the cohort alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.aggregator.test_regions import ENSEMBLE, GLOBAL, begun, config_of, work_off
from tests.aggregator.world import DIM, INTERNAL, World

from fedafd.aggregator.round_points import round_points
from fedafd.artifacts.representations import decode_representations, encode_representations
from fedafd.domain.kinds import Modality, StageKind
from fedafd.persistence.event_repository import events_after
from fedafd.persistence.participation_repository import list_participations
from fedafd.persistence.round_repository import get_round
from fedafd.persistence.stage_repository import list_stages
from fedafd.proto.v1 import distillation_pb2

if TYPE_CHECKING:
    from fedafd.distiller.tasks import StageRunner

Rows = NDArray[np.float32]
IMAGE = Modality.IMAGE
SHARP = {"temperature": 0.05}


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One database, as in tests/aggregator/test_regions.py."""
    return f"sqlite:///{tmp_path}/test.db"


def unit(rows: NDArray[Any]) -> Rows:
    made: Rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return made


CENTRED = unit(GLOBAL[IMAGE] - GLOBAL[IMAGE].mean(axis=0))


def honest(seed: int) -> Rows:
    """Of a tenth of the global representations; the rest is its own."""
    rest = np.random.default_rng(seed).normal(size=(6, DIM))
    rest -= (rest * CENTRED).sum(axis=1, keepdims=True) * CENTRED
    return unit(0.1 * CENTRED + unit(rest))


ROWS = [CENTRED, *(honest(seed) for seed in range(5))]


async def delivered(world: World, order: Sequence[int], clients: Sequence[Rows] = ROWS, **distillation: Any) -> str:
    """A round in which the clients have delivered in that order; client 0 is the copy."""
    callers = [await world.enrol(f"site-{number}") for number in range(len(clients))]
    round_id = await begun(world, distillation=SHARP | distillation)
    for number in order:
        blob = encode_representations({IMAGE: clients[number]}, world.public_sha256)
        assert (await world.deliver(callers[number], round_id, blob)).accepted
    await world.coordinate()
    return round_id


async def contributions(world: World, round_id: str) -> list[dict[str, Any]]:
    async with world.context.database.snapshot() as session:
        return [(part.contributions or {}).get("image", {}) for part, _ in await list_participations(session, round_id)]


async def merged_here(world: World, round_id: str, out: Sequence[int], **distillation: Any) -> bytes:
    """The state of all clients but those that are left out, in the cohort's order, without any service.

    `distillation`: other settings than the round's.
    """
    from fedafd.learning.ensemble import fold_state, merge_states
    from fedafd.learning.weighing import score_sheet, weigh

    config, states = await config_of(world, round_id), []
    config = config.model_copy(update={"distillation": config.distillation.model_copy(update=distillation)})
    for rows in ROWS:
        blob = encode_representations({IMAGE: rows}, world.public_sha256)
        sent = decode_representations(
            blob,
            modalities=[IMAGE],
            num_samples=6,
            embedding_dim=DIM,
            public_set_sha256=world.public_sha256,
            dtype=config.wire_dtype,
        )
        states.append(fold_state(config, IMAGE, sent[IMAGE], GLOBAL))
    limit = weigh(config, [score_sheet(config, IMAGE, state, GLOBAL) for state in states]).limit
    return merge_states([state for place, state in enumerate(states) if place not in out], limit)


async def root(world: World, round_id: str) -> bytes:
    """The state that the round distils."""
    async with world.context.database.snapshot() as session:
        (distil,) = [stage for stage in await list_stages(session, round_id) if stage.kind == StageKind.DISTIL]
    return world.context.store.get(distil.inputs["sed-state/image"]["key"])


async def give_up(world: World, stage: str) -> None:
    """A distiller claims the stage and is stopped."""
    claim = distillation_pb2.ClaimStageRequest(stage_id=stage, worker="stops")
    token = (await world.distillers.ClaimStage(claim, metadata=INTERNAL)).token
    gone = distillation_pb2.FailStageRequest(stage_id=stage, token=token, reason="stopped", handed_back=True)
    await world.distillers.FailStage(gone, metadata=INTERNAL)


async def kinds(world: World, round_id: str) -> list[str]:
    async with world.context.database.snapshot() as session:
        return sorted(stage.kind for stage in await list_stages(session, round_id))


async def test_a_copy_is_left_out_and_what_each_counts_for_is_written(world: World, runner: StageRunner) -> None:
    round_id = await delivered(world, [3, 0, 5, 1, 4, 2])
    assert await contributions(world, round_id) == [{}] * 6
    await work_off(world, runner)
    found = await contributions(world, round_id)
    assert [each["left_out"] for each in found] == [True, False, False, False, False, False]
    assert found[0]["weight"] == 0
    assert sum(each["weight"] for each in found) == pytest.approx(1)
    assert max(each["weight"] for each in found) <= 2 / 5 + 1e-9
    assert found[0]["similarity"] > 0.99
    assert await root(world, round_id) == await merged_here(world, round_id, out=(0,))
    async with world.context.database.snapshot() as session:
        events = await events_after(session, "trial", 0, 100)
    told = [event.data for event in events if event.kind == "participation.left_out"]
    assert [(each["client"], each["modality"], each["round"]) for each in told] == [("site-0", "image", 1)]
    async with world.context.database.snapshot() as session:
        points, folds = await round_points(session, await get_round(session, round_id))
    assert points["site-0/sed_weight/image"] == 0
    assert points["site-1/sed_weight/image"] == found[1]["weight"]
    assert folds == {}


async def test_who_agrees_least_on_a_sample_weighs_nothing_there(world: World, runner: StageRunner) -> None:
    round_id = await delivered(world, [3, 0, 5, 1, 4, 2], leave_out_copies=False, trimmed_share=0.2)
    await work_off(world, runner)
    assert sum(each["weight"] for each in await contributions(world, round_id)) == pytest.approx(1)
    trimmed = await root(world, round_id)
    assert trimmed == await merged_here(world, round_id, out=())
    # On each of the samples one of six counts for nothing: what is distilled is not what it would be with all of them.
    assert trimmed != await merged_here(world, round_id, out=(), trimmed_share=0.0)


@pytest.mark.parametrize("lost", ["sed-limit", "sed-sheet"])
async def test_neither_arrival_nor_a_lost_object_changes_a_bit(world: World, runner: StageRunner, lost: str) -> None:
    """The first distiller that weighs gives up, and what lies in the store is lost before it is read."""
    round_id = await delivered(world, [3, 0, 5, 1, 4, 2], leave_out_copies=False, weight_cap=0.25)
    done: set[str] = set()
    while waiting := [(kind, stage) for kind, stage in world.sent if kind in ENSEMBLE and stage not in done]:
        for kind, stage in waiting:
            done.add(stage)
            if kind is StageKind.WEIGH:
                await give_up(world, stage)
            if kind is not StageKind.FOLD:
                for each in [each for each in world.context.store.list("") if f"/{lost}/" in each.key]:
                    world.context.store.delete(each.key)
            await asyncio.to_thread(runner.run, stage)
        await world.coordinate()
    assert max(each["weight"] for each in await contributions(world, round_id)) == pytest.approx(0.25)
    assert await root(world, round_id) == await merged_here(world, round_id, out=())


async def test_one_delivery_needs_no_weighing_and_weighs_all(world: World, runner: StageRunner) -> None:
    round_id = await delivered(world, [0], ROWS[:1])
    await work_off(world, runner)
    assert await contributions(world, round_id) == [
        {"weight": 1.0, "similarity": None, "agreement": None, "left_out": False}
    ]
    assert await kinds(world, round_id) == ["distil", "fold", "prepare"]


async def test_without_a_cap_merges_stream_as_they_did(world: World, runner: StageRunner) -> None:
    round_id = await delivered(world, range(6), weight_cap=None)
    await work_off(world, runner)
    assert await kinds(world, round_id) == ["distil", *["fold"] * 6, "merge", "prepare"]
    assert await contributions(world, round_id) == [{}] * 6


async def test_folds_of_an_older_distiller_merge_without_a_cap(world: World) -> None:
    round_id = await delivered(world, range(3), ROWS[:3])
    for nth in range(3):
        await world.distil(StageKind.FOLD, nth=nth, sed_state=b"sed %d" % nth)
    assert "weigh" not in await kinds(world, round_id)
    assert await world.distil(StageKind.MERGE, sed_state=b"merged") == ["sed-state/0", "sed-state/1", "sed-state/2"]
