"""Regions at the upper federation: what they deliver counts as their clients, no more, and nothing else is taken."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.aggregator.world import DIM, World, refused

from fedafd.artifacts.merged_states import encode_merged_states
from fedafd.artifacts.representations import encode_representations
from fedafd.domain.config import FederationConfig, WireDtype, parse_federation_config, stored_federation_config
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import ClientKind, Modality, ParticipantKind, StageKind
from fedafd.persistence.client_repository import get_client
from fedafd.persistence.participation_repository import find_participation
from fedafd.persistence.stage_repository import list_stages
from fedafd.proto.v1 import aggregator_pb2 as pb

if TYPE_CHECKING:
    from fedafd.distiller.tasks import StageRunner

Reps = Mapping[Modality, NDArray[np.float32]]
REGION = ParticipantKind.REGION


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One database: tests/persistence has both, and tests of deliveries use both."""
    return f"sqlite:///{tmp_path}/test.db"


def unit_rows(seed: int) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).normal(size=(6, DIM)) + 0.5
    unit: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    return unit.astype(np.float32)


GLOBAL = {m: unit_rows(90 + place) for place, m in enumerate(Modality)}
CLIENTS: list[Reps] = [
    {Modality.IMAGE: unit_rows(1)},
    {Modality.TEXT: unit_rows(2)},
    {m: unit_rows(3 + place) for place, m in enumerate(Modality)},
    {Modality.IMAGE: unit_rows(5)},
]


ENSEMBLE = (StageKind.FOLD, StageKind.WEIGH, StageKind.MERGE)


def global_blob(world: World) -> bytes:
    return encode_representations(GLOBAL, world.public_sha256, WireDtype.FLOAT16)


async def begun(world: World, **config: Any) -> str:
    """A round that collects."""
    round_id = await world.start_round(**config)
    bundles: dict[str, Any] = {"encoder_bundle__image": b"image", "encoder_bundle__text": b"text"}
    await world.distil(StageKind.PREPARE, server_state=b"state", representations=global_blob(world), **bundles)
    return round_id


async def config_of(world: World, round_id: str) -> FederationConfig:
    return stored_federation_config((await world.round(round_id)).config)


def delivery(world: World, config: FederationConfig, clients: Sequence[Reps], total: int | None = None) -> bytes:
    from fedafd.learning.ensemble import fold_state, merge_states

    held = [m for m in Modality if any(m in reps for reps in clients)]
    return encode_merged_states(
        {m: merge_states([fold_state(config, m, reps[m], GLOBAL) for reps in clients if m in reps]) for m in held},
        total=total or len(clients),
        public_set_sha256=world.public_sha256,
        global_sha256=sha256_of(global_blob(world)),
    )


async def work_off(world: World, runner: StageRunner) -> None:
    """Have a distiller do all folds, weighings and merges."""
    done: set[str] = set()
    await world.coordinate()
    while waiting := [s for k, s in world.sent if k in ENSEMBLE and s not in done]:
        for stage in waiting:
            await asyncio.to_thread(runner.run, stage)
        done |= set(waiting)
        await world.coordinate()


async def ensembles(world: World, round_id: str) -> dict[Modality, NDArray[np.float32]]:
    """What the round distils, by modality."""
    from fedafd.learning.ensemble import aggregate

    async with world.context.database.snapshot() as session:
        (distil,) = [s for s in await list_stages(session, round_id) if s.kind == StageKind.DISTIL]
    states = {m: distil.inputs.get(f"sed-state/{m.value}") for m in Modality}
    config = await config_of(world, round_id)
    return {m: aggregate(config, world.context.store.get(e["key"])) for m, e in states.items() if e is not None}


async def test_regions_beside_a_client_give_what_a_flat_federation_gives(world: World, runner: StageRunner) -> None:
    """One region has clients of both modalities, one of images alone."""
    from fedafd.learning.ensemble import aggregate, fold_state, merge_states

    north = await world.enrol("north", REGION, max_clients=3)
    south = await world.enrol("south", REGION, max_clients=1)
    site = await world.enrol("texts", ClientKind.TEXT)
    quorum = {"min_clients": 5, "min_image_clients": 3, "min_text_clients": 3}
    round_id = await begun(world, quorum=quorum, distillation={"weight_cap": 1.0})
    config = await config_of(world, round_id)
    own = {Modality.TEXT: unit_rows(8)}
    assert (await world.deliver(north, round_id, delivery(world, config, CLIENTS[:3]), "merged-states")).accepted
    assert (await world.deliver(south, round_id, delivery(world, config, CLIENTS[3:]), "merged-states")).accepted
    assert (await world.deliver(site, round_id, encode_representations(own, world.public_sha256))).accepted
    await work_off(world, runner)

    found = await ensembles(world, round_id)
    for modality in Modality:
        states = [fold_state(config, modality, r[modality], GLOBAL) for r in (*CLIENTS, own) if modality in r]
        np.testing.assert_allclose(found[modality], aggregate(config, merge_states(states)), rtol=0, atol=1e-6)
    async with world.context.database.snapshot() as session:
        row = await find_participation(session, round_id, (await get_client(session, "trial", "north")).id)
    assert row is not None
    assert row.region_clients == {"total": 3, "image": 2, "text": 2}


async def test_a_modality_that_no_region_holds_is_left_out(world: World, runner: StageRunner) -> None:
    north = await world.enrol("north", REGION, max_clients=2)
    round_id = await begun(world)
    images = [CLIENTS[0], CLIENTS[3]]
    await world.deliver(north, round_id, delivery(world, await config_of(world, round_id), images), "merged-states")
    await work_off(world, runner)
    assert (await ensembles(world, round_id)).keys() == {Modality.IMAGE}


async def test_a_region_with_more_clients_than_it_may_have_is_rejected_and_the_round_goes_on(
    world: World, runner: StageRunner
) -> None:
    small = await world.enrol("a-small", REGION, max_clients=2)
    north = await world.enrol("north", REGION, max_clients=3)
    round_id = await begun(world)
    blob = delivery(world, await config_of(world, round_id), CLIENTS[:3])
    answer = await world.deliver(small, round_id, blob, "merged-states")
    assert not answer.accepted
    assert "counts 3 clients, and may have 2" in answer.rejection_reason
    assert (await world.deliver(north, round_id, blob, "merged-states")).accepted
    await work_off(world, runner)
    assert (await ensembles(world, round_id)).keys() == set(Modality)


@pytest.mark.parametrize("sends", ["representations of its own", "states of another round", "nothing that is a tensor"])
async def test_what_is_no_merged_state_of_the_round_is_rejected(world: World, sends: str) -> None:
    north = await world.enrol("north", REGION, max_clients=3)
    round_id = await begun(world)
    good = delivery(world, await config_of(world, round_id), CLIENTS[:3])
    sha256 = sha256_of(global_blob(world)).encode()
    blob = {
        "representations of its own": world.reps(),
        "states of another round": good.replace(sha256, b"0" * 64),
        "nothing that is a tensor": b"\x80\x04cos\nsystem\n.",
    }[sends]
    answer = await world.deliver(north, round_id, blob, "merged-states")
    assert not answer.accepted
    await world.coordinate()
    row = await world.round(round_id)
    assert (row.state, row.reason) == (
        "failed",
        f"quorum not reached: 0 of 1 deliveries; north: {answer.rejection_reason}",
    )


async def test_each_kind_of_participant_sends_what_is_its_own(world: World) -> None:
    north, site = await world.enrol("north", REGION, max_clients=3), await world.enrol("site")
    round_id = await begun(world)
    for caller, purpose in ((north, "representations"), (north, "personalized-model"), (site, "merged-states")):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await world.upload(caller, round_id, world.reps(), purpose)
        assert "such a participant sends no" in refused(raised, grpc.StatusCode.INVALID_ARGUMENT, "invalid-upload")


async def test_a_round_that_needs_rows_of_single_clients_takes_no_region(world: World) -> None:
    """It was queued before the region was invited."""
    north = await world.enrol("north", REGION, max_clients=3)
    round_id = await begun(world, distillation={"staleness_decay": 0.5})
    blob = delivery(world, await config_of(world, round_id), CLIENTS[:3])
    answer = await world.deliver(north, round_id, blob, "merged-states")
    assert not answer.accepted
    assert "staleness_decay weighs what single clients sent" in answer.rejection_reason


async def test_a_quorum_counts_the_clients_that_a_region_stands_for(world: World) -> None:
    north = await world.enrol("north", REGION, max_clients=9)
    round_id = await begun(world, quorum={"min_clients": 3, "min_text_clients": 3})
    blob = delivery(world, await config_of(world, round_id), CLIENTS[:3])
    await world.deliver(north, round_id, blob, "merged-states")
    await world.coordinate()
    reason = (await world.round(round_id)).reason
    assert reason == "quorum not reached: 2 of 3 deliveries with text representations"


async def test_a_delivery_that_the_store_lost_is_asked_for_again(world: World, runner: StageRunner) -> None:
    north = await world.enrol("north", REGION, max_clients=3)
    round_id = await begun(world)
    blob = delivery(world, await config_of(world, round_id), CLIENTS[:3])
    await world.deliver(north, round_id, blob, "merged-states")
    key = f"federations/trial/rounds/1/merged-states/{sha256_of(blob)}"
    world.context.store.delete(key)
    await work_off(world, runner)
    assert (await world.round(round_id)).state == "collecting"
    assert (await world.deliver(north, round_id, blob, "merged-states")).accepted
    world.sent.clear()
    await work_off(world, runner)
    assert (await ensembles(world, round_id)).keys() == set(Modality)


@pytest.mark.parametrize(
    "distillation",
    [
        {},
        {"weight_cap": "strict"},
        {"weight_cap": None},
        {"weight_cap": 0.25, "leave_out_copies": False, "trimmed_share": 0.3},
    ],
)
async def test_a_region_is_told_how_much_one_of_its_sites_may_weigh_and_sites_are_not(
    world: World, distillation: dict[str, Any]
) -> None:
    """It capped its sites as by default, whatever the upper federation said."""
    north, site = await world.enrol("north", REGION, max_clients=3), await world.enrol("site")
    round_id = await begun(world, distillation=distillation)
    config = await config_of(world, round_id)
    told: dict[str, dict[str, Any]] = {}
    for name, caller in (("region", north), ("site", site)):
        task = (await world.agents.FetchTask(pb.FetchTaskRequest(), metadata=caller)).train
        told[name] = json.loads(task.federation_config_json)
    assert parse_federation_config(told["region"]).distillation == config.distillation
    keys = {"weight_cap", "leave_out_copies", "trimmed_share"}
    assert not keys & told["site"]["distillation"].keys()
    assert keys & told["region"]["distillation"].keys() == distillation.keys()
    assert not {"cohort", "retention"} & told["region"].keys()


@pytest.mark.parametrize("strategy", ["creamfl", "fedafd"])
def test_of_a_strategy_a_region_reads_what_the_upper_federation_does(strategy: str) -> None:
    for distillation in ({}, {"weight_cap": "auto"}, {"weight_cap": None}):
        upper = parse_federation_config({"name": "upper", "strategy": strategy, "distillation": distillation})
        assert parse_federation_config(json.loads(upper.regions_json())).distillation == upper.distillation


def copies_of_global(seed: int) -> Reps:
    """The global rows as a client has them, up to rounding."""
    import torch

    from fedafd.algorithm.centring import centre, public_mean

    rng, copied = np.random.default_rng(seed), {}
    for modality, rows in GLOBAL.items():
        rows_ND = torch.from_numpy(rows)
        near = centre(rows_ND, public_mean(rows_ND)).numpy() + rng.normal(scale=1e-4, size=rows.shape)
        copied[modality] = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)
    return copied


@pytest.mark.parametrize("num_sites", [1, 3])
async def test_a_region_that_sends_the_global_representations_back_is_left_out_as_a_client_is(
    world: World, runner: StageRunner, num_sites: int
) -> None:
    """It had the cap of all clients that it said to stand for, 2 / K each."""
    from fedafd.learning.ensemble import aggregate, fold_state, merge_states

    north = await world.enrol("north", REGION, max_clients=3)
    south = await world.enrol("south", REGION, max_clients=2)
    site = await world.enrol("texts", ClientKind.TEXT)
    round_id = await begun(world)
    config = await config_of(world, round_id)
    own = {Modality.TEXT: unit_rows(8)}
    copied = delivery(world, config, [copies_of_global(seed) for seed in range(num_sites)])
    assert (await world.deliver(north, round_id, copied, "merged-states")).accepted
    assert (await world.deliver(south, round_id, delivery(world, config, CLIENTS[1:3]), "merged-states")).accepted
    assert (await world.deliver(site, round_id, encode_representations(own, world.public_sha256))).accepted
    await work_off(world, runner)

    async with world.context.database.snapshot() as session:
        rows = {}
        for name in ("north", "south", "texts"):
            rows[name] = await find_participation(session, round_id, (await get_client(session, "trial", name)).id)
    weighed = {name: (row.contributions or {}) if row is not None else {} for name, row in rows.items()}
    for modality in Modality:
        assert weighed["north"][modality.value]["left_out"]
        assert weighed["north"][modality.value]["weight"] == 0
        assert weighed["north"][modality.value]["similarity"] > 0.999
        assert not weighed["south"][modality.value]["left_out"]
    found = await ensembles(world, round_id)
    (only,) = [fold_state(config, Modality.IMAGE, r[Modality.IMAGE], GLOBAL) for r in CLIENTS[1:3] if len(r) == 2]
    np.testing.assert_allclose(found[Modality.IMAGE], aggregate(config, merge_states([only])), rtol=0, atol=1e-6)
