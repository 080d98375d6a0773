"""The store stays as small as a federation's retention says, however many rounds it trains; nothing needed is lost."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update
from tests.aggregator.world import INTERNAL, World

from fedafd.aggregator.orphans import OrphanKind
from fedafd.aggregator.sweeping import prune, sweep_next
from fedafd.artifacts.keys import personalized_model_file
from fedafd.artifacts.ref import ArtifactRef
from fedafd.domain.errors import StorageUnavailableError
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import StageKind
from fedafd.domain.states import RoundState
from fedafd.persistence.client_repository import get_client
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.model_repository import add_files, list_versions
from fedafd.persistence.models import (
    ArtifactRow,
    ModelVersionRow,
    ParticipationRow,
    PersonalizedModelRow,
    RoundRow,
    utc_now,
)
from fedafd.persistence.object_repository import named_objects
from fedafd.proto.v1 import distillation_pb2 as pb

sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""The statements are the same on both; one test runs them on PostgreSQL."""
Caller = tuple[tuple[str, str], ...]


def keys(world: World) -> list[str]:
    return [found.key for found in world.context.store.list("federations/")]


def working(world: World) -> Counter[str]:
    """How many objects of each purpose there are, beside the files of models."""
    purposes = [key.split("/")[4] for key in keys(world) if "/rounds/" in key]
    return Counter(purpose for purpose in purposes if purpose != "model")


async def sweep(world: World) -> None:
    while await sweep_next(world.context.database, world.context.store):
        pass


async def configure(world: World, **values: object) -> None:
    async with world.context.database.transaction() as session:
        federation = await get_federation(session, "trial")
        federation.config = federation.config | values


async def set_current(world: World, version: int) -> None:
    async with world.context.database.transaction() as session:
        (await get_federation(session, "trial")).current_version = version


async def train(world: World, caller: Caller, number: int, *, swept: bool = True) -> None:
    """One whole round, whose results all differ from those of the others in content and not in length."""
    mark = f"{number:04d}".encode()
    round_id = await world.start_round()
    outputs: dict[str, Any] = {"server_state": b"prepared" + mark, "representations": b"reps" + mark}
    await world.distil(
        StageKind.PREPARE, **outputs, encoder_bundle__image=b"image" + mark, encoder_bundle__text=b"text" + mark
    )
    assert (await world.deliver(caller, round_id, world.reps())).accepted
    await world.coordinate()
    await world.distil(StageKind.FOLD, sed_state=b"sed" + mark)
    await world.distil(StageKind.DISTIL, server_state=b"state" + mark, weights__image=b"average" + mark)
    await world.distil(StageKind.EVALUATE, server_state=b"state" + mark, model__config=b"model" + mark)
    assert (await world.round(round_id)).state == RoundState.COMPLETED.value
    if swept:
        await sweep(world)


async def versions(world: World) -> dict[int, ModelVersionRow]:
    async with world.context.database.snapshot() as session:
        return {row.version: row for row in await list_versions(session, "trial", 0, 100)}


async def with_state(world: World) -> list[int]:
    return [number for number, row in (await versions(world)).items() if row.state_removed_at is None]


async def test_ten_rounds_take_no_more_than_three(world: World) -> None:
    caller = await world.enrol("north")
    sizes, rows = [], []
    for number in range(1, 11):
        await train(world, caller, number)
        found = list(world.context.store.list("federations/"))
        models = [each for each in found if "/model/" in each.key]
        assert len(models) == number
        sizes.append((len(found) - len(models), sum(e.size_bytes for e in found) - sum(e.size_bytes for e in models)))
        async with world.context.database.snapshot() as session:
            rows.append((await session.scalar(select(func.count()).select_from(ArtifactRow)) or 0) - number)
            assert {each.key for each in await named_objects(session)} == {each.key for each in found}
    assert len(set(sizes[2:])) == len(set(rows[2:])) == 1
    assert await with_state(world) == [8, 9, 10]
    # Two of the current version's round, its own and the one that it was distilled from.
    assert working(world) == {
        "server-state": 4, "weights": 3, "representations": 1, "encoder-bundle": 2, "sed-state": 1
    }  # fmt: skip
    # The folders go too where the federation says so: by a prune, that tells first, or with the next round.
    await configure(world, retention={"keep_rounds": 2, "keep_models": 4})
    told = await prune(world.context.database, world.context.store, dry_run=True)
    assert told[OrphanKind.LET_GO].objects == 2 + 6
    assert sum("/model/" in key for key in keys(world)) == 10
    assert await prune(world.context.database, world.context.store) == told
    assert await prune(world.context.database, world.context.store) == {}
    assert sum("/model/" in key for key in keys(world)) == 4
    before = len(keys(world))
    await train(world, caller, 11)
    assert len(keys(world)) == before
    assert [n for n, row in (await versions(world)).items() if row.files_removed_at is None] == [8, 9, 10, 11]


@sqlite
async def test_what_clients_deliver_goes_with_its_round_unless_it_is_asked_for(world: World) -> None:
    caller = await world.enrol("north")
    await train(world, caller, 1)
    assert working(world)["representations"] == 1
    await configure(world, retention={"keep_deliveries": 2})
    for number in (2, 3, 4):
        await train(world, caller, number)
    assert working(world)["representations"] == 2 + 1


@sqlite
async def test_deliveries_stay_for_as_many_rounds_as_they_may_count_in(world: World) -> None:
    caller = await world.enrol("north")
    async with world.context.database.snapshot() as session:
        distillation = (await get_federation(session, "trial")).config["distillation"]
    await configure(world, distillation=distillation | {"staleness_decay": 0.5, "max_staleness": 2})
    for number in range(1, 5):
        await train(world, caller, number)
    async with world.context.database.snapshot() as session:
        sent = select(ArtifactRow.key).where(ArtifactRow.client_id.is_not(None)).order_by(ArtifactRow.key)
        assert [key.split("/")[3] for key in await session.scalars(sent)] == ["3", "4"]


@sqlite
async def test_the_best_and_the_promoted_and_the_line_of_the_current_version_stay(world: World) -> None:
    caller = await world.enrol("north")
    await configure(world, retention={"keep_rounds": 1})
    await train(world, caller, 1)
    async with world.context.database.transaction() as session:
        await session.execute(update(ModelVersionRow).values(metrics={"rsum": 9.0}))
    await train(world, caller, 2)
    async with world.context.database.transaction() as session:
        promoted = update(ModelVersionRow).where(ModelVersionRow.version == 2)
        await session.execute(promoted.values(promoted_at=utc_now()))
    for number in (3, 4, 5):
        await train(world, caller, number)
    assert await with_state(world) == [1, 2, 4, 5]
    await set_current(world, 2)
    await train(world, caller, 6)
    assert await with_state(world) == [1, 2, 6]


@sqlite
async def test_what_an_open_round_works_with_stays(world: World) -> None:
    caller = await world.enrol("north")
    for number in range(1, 5):
        await train(world, caller, number, swept=False)
    await set_current(world, 3)
    round_id = await world.start_round()
    await set_current(world, 1)
    await configure(world, retention={"keep_rounds": 1})
    await sweep(world)
    await prune(world.context.database, world.context.store)
    assert await with_state(world) == [1, 3, 4]
    stage_id = [stage for kind, stage in world.sent if kind is StageKind.PREPARE][-1]
    request = pb.ClaimStageRequest(stage_id=stage_id, worker="script")
    (state,) = (await world.distillers.ClaimStage(request, metadata=INTERNAL)).inputs
    assert world.context.store.get(state.artifact.key) == b"state0003"
    assert (await world.round(round_id)).base_version == 3
    # Were that state lost, it could be made again from what its own round worked with.
    assert any(key.startswith("federations/trial/rounds/3/sed-state/") for key in keys(world))


@sqlite
async def test_a_damaged_state_falls_back_to_a_version_whose_state_is_there(world: World) -> None:
    caller = await world.enrol("north")
    for number in (1, 2, 3):
        await train(world, caller, number)
    async with world.context.database.transaction() as session:
        second = update(ModelVersionRow).where(ModelVersionRow.version == 2)
        await session.execute(second.values(state_removed_at=utc_now()))
    round_id = await world.start_round()
    stage_id = [stage for kind, stage in world.sent if kind is StageKind.PREPARE][-1]
    claim = await world.distillers.ClaimStage(
        pb.ClaimStageRequest(stage_id=stage_id, worker="script"), metadata=INTERNAL
    )
    failed = pb.FailStageRequest(stage_id=stage_id, token=claim.token, reason="lost", bad_input="server-state")
    await world.distillers.FailStage(failed, metadata=INTERNAL)
    assert (await world.round(round_id)).base_version == 1


async def sweep_in_vain(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweep while the store refuses deletes."""

    def away(_: str) -> None:
        raise StorageUnavailableError("the store is away")

    with monkeypatch.context() as patched:
        patched.setattr(world.context.store, "delete", away)
        with pytest.raises(StorageUnavailableError):
            await sweep(world)


@sqlite
async def test_who_dies_between_the_rows_and_the_objects_leaves_nothing_behind(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = await world.enrol("north")
    await configure(world, retention={"keep_rounds": 1})
    for number in (1, 2):
        await train(world, caller, number)
    await train(world, caller, 3, swept=False)

    await sweep_in_vain(world, monkeypatch)
    await sweep(world)
    async with world.context.database.snapshot() as session:
        assert set(keys(world)) == {each.key for each in await named_objects(session)}
    assert await prune(world.context.database, world.context.store) == {}


@sqlite
async def test_a_store_that_fails_deletes_keeps_no_sites_model_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing names it any more then, so a `client forget` would not find it either."""
    caller = await world.enrol("north")
    await configure(world, retention={"keep_models": 1})
    for number in (1, 2):
        await train(world, caller, number, swept=False)
        await share_model(world, "north", number)

    await sweep_in_vain(world, monkeypatch)
    await sweep(world)
    assert [key for key in keys(world) if "/clients/" in key] == [
        personalized_model_file("trial", "north", 2, "config.json")
    ]
    assert await prune(world.context.database, world.context.store) == {}


async def share_model(world: World, client: str, number: int) -> None:
    """As if the client had shared a model of one file in that round."""
    key, content = personalized_model_file("trial", client, number, "config.json"), f"{number}".encode()
    world.context.store.put(key, content)
    entry: ArtifactRef = {"sha256": sha256_of(content), "size_bytes": len(content), "purpose": "model-file", "key": key}
    async with world.context.database.transaction() as session:
        owner = await get_client(session, "trial", client)
        in_round = RoundRow.number == number
        round_id = await session.scalar(select(RoundRow.id).where(RoundRow.federation_id == "trial", in_round))
        model = PersonalizedModelRow(client_id=owner.id, version=number, round_id=round_id, metrics={})
        session.add(model)
        await session.flush()
        await add_files(session, model, {"config.json": entry})


@sqlite
async def test_null_keeps_every_state(world: World) -> None:
    caller = await world.enrol("north")
    await configure(world, retention={"keep_rounds": None})
    for number in range(1, 6):
        await train(world, caller, number)
    assert await with_state(world) == [1, 2, 3, 4, 5]


@sqlite
async def test_a_failed_round_lets_nothing_of_the_others_go(world: World) -> None:
    caller = await world.enrol("north")
    for number in (1, 2):
        await train(world, caller, number)
    before = keys(world)
    await world.start_round()
    await world.prepare()
    world.has_led_for_long()
    async with world.context.database.transaction() as session:
        await session.execute(update(ParticipationRow).values(last_progress_at=utc_now() - timedelta(hours=1)))
    await world.coordinate()
    await sweep(world)
    assert keys(world) == before
