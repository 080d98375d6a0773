"""What a client sent is deleted on request, all of it and nothing else, with a receipt, wherever it is cut off."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select
from tests.aggregator.test_sweeping import keys
from tests.aggregator.world import DIM, World

from fedafd.aggregator.forgetting import forget_next
from fedafd.aggregator.sweeping import sweep_next
from fedafd.artifacts.folders import pack_folder
from fedafd.artifacts.representations import encode_representations
from fedafd.domain.config import WireDtype
from fedafd.domain.errors import StorageUnavailableError
from fedafd.domain.kinds import Modality, StageKind
from fedafd.domain.states import RoundState, StageState
from fedafd.persistence.client_repository import get_client
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.forgetting_repository import ask_to_forget, round_in_the_way
from fedafd.persistence.models import (
    ArtifactRow,
    ClientRow,
    EventRow,
    ModelFileRow,
    ParticipationRow,
    PersonalizedModelRow,
    RoundRow,
    StageRow,
    UploadRow,
)
from fedafd.persistence.stage_repository import add_stage
from fedafd.proto.v1 import aggregator_pb2 as pb

CARDS = {"north": b"card of north", "south": b"card of south"}


def reps(world: World, shift: int) -> bytes:
    rows = np.roll(np.eye(6, DIM, dtype=np.float32), shift, axis=1)
    return encode_representations({Modality.IMAGE: rows}, world.public_sha256, WireDtype.FLOAT16)


async def delivered_round(world: World, *, same: bool = False) -> str:
    """A round that is distilling, of two sites that share their models; `same`: they send the same representations."""
    async with world.context.database.transaction() as session:
        federation = await get_federation(session, "trial")
        federation.config = federation.config | {"retention": {"keep_deliveries": 5}}
    callers = {name: await world.enrol(name) for name in CARDS}
    round_id = await world.start_round()
    await world.prepare()
    for shift, (name, caller) in enumerate(callers.items()):
        model = pack_folder({"config.json": b"{}", "README.md": CARDS[name]})
        uploads = [
            await world.upload(caller, round_id, reps(world, 0 if same else shift)),
            await world.upload(caller, round_id, model, "personalized-model"),
        ]
        request = pb.CommitUploadRequest(
            round_id=round_id, upload_ids=uploads, metrics={"federated/acc1": 50.0}, num_private_samples=12
        )
        assert (await world.agents.CommitUpload(request, metadata=caller)).accepted
    return round_id


async def over(world: World, round_id: str) -> None:
    """The round is over, as far as its row says."""
    async with world.context.database.transaction() as session:
        (await session.get_one(RoundRow, round_id)).state = RoundState.COMPLETED.value


async def ask(world: World, name: str = "north") -> None:
    async with world.context.database.transaction() as session:
        ask_to_forget(session, await get_client(session, "trial", name), "api-key:admin")


async def client(world: World, name: str = "north") -> ClientRow:
    async with world.context.database.snapshot() as session:
        return await get_client(session, "trial", name)


async def rows_of(world: World, name: str) -> dict[str, int]:
    """How many rows hold something that the client sent."""
    counted = {}
    async with world.context.database.snapshot() as session:
        row = await get_client(session, "trial", name)
        for table in (ArtifactRow, PersonalizedModelRow, UploadRow):
            query = select(func.count()).select_from(table).where(table.client_id == row.id)
            counted[table.__tablename__] = await session.scalar(query) or 0
        files = select(func.count()).select_from(ModelFileRow).where(ModelFileRow.key.contains(f"/clients/{name}/"))
        counted["files"] = await session.scalar(files) or 0
        (part,) = await session.scalars(select(ParticipationRow).where(ParticipationRow.client_id == row.id))
        kept = (part.metrics, part.num_private_samples, part.representations_sha256)
        counted["told"] = sum(each is not None for each in kept)
    return counted


async def receipts(world: World) -> list[dict[str, Any]]:
    async with world.context.database.snapshot() as session:
        query = select(EventRow).where(EventRow.kind == "client.forgotten").order_by(EventRow.id)
        return [event.data for event in await session.scalars(query)]


async def test_all_that_a_client_sent_is_deleted_and_nothing_of_another(world: World) -> None:
    await over(world, await delivered_round(world))
    others = await rows_of(world, "south")
    before = set(keys(world))
    mine = {reps(world, 0), b"{}", CARDS["north"]}
    await ask(world)
    assert await forget_next(world.context.database, world.context.store)
    assert set((await rows_of(world, "north")).values()) == {0}
    assert await rows_of(world, "south") == others
    gone = before - set(keys(world))
    assert len(gone) == 3 and not any("/clients/north/" in key for key in keys(world))
    (receipt,) = await receipts(world)
    hashes = sorted(hashlib.sha256(each).hexdigest() for each in mine)
    assert receipt["sha256"] == hashes
    assert receipt["sha256_of_all"] == hashlib.sha256("\n".join(hashes).encode()).hexdigest()
    assert receipt["size_bytes"] == sum(map(len, mine)) and receipt["objects"] == 3
    counts = ("client", "representations", "weights", "personalized_models", "rounds_with_metrics")
    assert [receipt[each] for each in counts] == ["north", 1, 0, 1, 1]
    row = await client(world)
    assert row.forget_requested_at is None and row.forgotten_at is not None
    assert not await forget_next(world.context.database, world.context.store)


async def test_asking_again_changes_nothing_and_a_second_time_deletes_nothing_more(world: World) -> None:
    await over(world, await delivered_round(world))
    await ask(world)
    asked_at = (await client(world)).forget_requested_at
    await ask(world)
    assert (await client(world)).forget_requested_at == asked_at
    assert await forget_next(world.context.database, world.context.store)
    await ask(world)
    assert await forget_next(world.context.database, world.context.store)
    assert [(each["objects"], each["rounds_with_metrics"]) for each in await receipts(world)] == [(3, 1), (0, 0)]
    async with world.context.database.snapshot() as session:
        asked = select(func.count()).select_from(EventRow).where(EventRow.kind == "client.forget_requested")
        assert await session.scalar(asked) == 2


@pytest.mark.parametrize("deletes_before", [0, 2])
async def test_cut_off_in_the_middle_it_goes_on_and_tells_all_of_it_once(
    world: World, monkeypatch: pytest.MonkeyPatch, deletes_before: int
) -> None:
    await over(world, await delivered_round(world))
    await ask(world)
    store, left = world.context.store, [deletes_before]
    delete = store.delete

    def dying(key: str) -> None:
        if not left[0]:
            raise StorageUnavailableError("away")
        left[0] -= 1
        delete(key)

    with monkeypatch.context() as patched:
        patched.setattr(store, "delete", dying)
        with pytest.raises(StorageUnavailableError):
            await forget_next(world.context.database, store)
    # Nobody can read it from here on, and the receipt waits for the objects.
    assert set((await rows_of(world, "north")).values()) == {0}
    assert not await receipts(world) and (await client(world)).forgotten_at is None
    await ask(world)
    assert await forget_next(world.context.database, store)
    assert [each["objects"] for each in await receipts(world)] == [3]
    assert not any("/clients/north/" in key for key in keys(world))


async def test_a_running_round_keeps_what_it_uses_until_it_is_over(world: World) -> None:
    round_id = await delivered_round(world)
    await ask(world)
    before = keys(world)
    assert not await forget_next(world.context.database, world.context.store)
    assert keys(world) == before and (await rows_of(world, "north"))["told"] == 3
    async with world.context.database.snapshot() as session:
        assert await round_in_the_way(session, (await client(world)).id) == 1
    await over(world, round_id)
    assert await forget_next(world.context.database, world.context.store)
    async with world.context.database.snapshot() as session:
        assert await round_in_the_way(session, (await client(world)).id) is None


async def test_what_another_client_sent_with_the_same_bytes_stays(world: World) -> None:
    await over(world, await delivered_round(world, same=True))
    await ask(world)
    assert await forget_next(world.context.database, world.context.store)
    async with world.context.database.snapshot() as session:
        south = await get_client(session, "trial", "south")
        (part,) = await session.scalars(select(ParticipationRow).where(ParticipationRow.client_id == south.id))
        shared = select(ArtifactRow).where(ArtifactRow.sha256 == part.representations_sha256)
        (artifact,) = await session.scalars(shared)
    assert artifact.key in keys(world)


async def test_a_client_that_is_forgotten_before_its_round_was_swept_leaves_no_object(world: World) -> None:
    await over(world, await delivered_round(world))
    await ask(world)
    assert await forget_next(world.context.database, world.context.store)
    while await sweep_next(world.context.database, world.context.store):
        pass
    left = b"".join(world.context.store.get(key) for key in keys(world))
    assert CARDS["north"] not in left and CARDS["south"] in left


async def test_what_a_forgotten_client_weighed_goes_and_the_figures_of_the_others_stay(world: World) -> None:
    metrics = {f"{position}/{part}": position / 16 for position in range(12) for part in ("weight", "agreement")}
    round_id = await delivered_round(world)
    async with world.context.database.transaction() as session:
        of = select(ParticipationRow).join(ClientRow, ClientRow.id == ParticipationRow.client_id)
        # North stands at position 1: there are figures of 10 and 11, which begin alike.
        for name, position in (("south", 11), ("north", 1)):
            (await session.scalars(of.where(ClientRow.name == name))).one().position = position
            await session.flush()
        for modality in Modality:
            stage = await add_stage(session, round_id, StageKind.WEIGH, {}, modality=modality)
            assert stage is not None
            stage.metrics, stage.state = metrics, StageState.DONE.value
    await over(world, round_id)
    await ask(world)
    assert await forget_next(world.context.database, world.context.store)
    async with world.context.database.snapshot() as session:
        weighed = (await session.scalars(select(StageRow).where(StageRow.kind == StageKind.WEIGH.value))).all()
        others = {name: value for name, value in metrics.items() if not name.startswith("1/")}
        assert [stage.metrics for stage in weighed] == [others, others]
        assert len(others) == len(metrics) - 2


async def test_what_was_sent_while_deletes_failed_is_deleted_for_who_asked_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that refuses deletes for days: the receipt of the first request covered nothing of what came since."""
    await over(world, await delivered_round(world))
    await ask(world)
    store = world.context.store

    def refusing(key: str) -> None:
        raise StorageUnavailableError("not allowed to delete")

    with monkeypatch.context() as patched:
        patched.setattr(store, "delete", refusing)
        with pytest.raises(StorageUnavailableError):
            await forget_next(world.context.database, store)
    async with world.context.database.transaction() as session:
        row = await get_client(session, "trial", "north")
        (part,) = await session.scalars(select(ParticipationRow).where(ParticipationRow.client_id == row.id))
        part.metrics, part.num_private_samples = {"federated/acc1": 51.0}, 13
    await ask(world)
    while await forget_next(world.context.database, store):
        pass
    assert set((await rows_of(world, "north")).values()) == {0}
    assert [(each["objects"], each["rounds_with_metrics"]) for each in await receipts(world)] == [(3, 1), (0, 1)]
    assert (await client(world)).forget_requested_at is None


async def test_what_folds_made_of_its_rows_alone_goes_too_and_no_other_clients(world: World) -> None:
    """The state of a fold is one client's rows, and the newest round's stay to make again what the store loses."""
    round_id = await delivered_round(world)
    await world.coordinate()
    for nth, mark in enumerate((b"north", b"south")):
        await world.distil(StageKind.FOLD, nth=nth, sed_state=b"rows of " + mark, scores=b"scores of " + mark)
    await over(world, round_id)
    await ask(world)
    assert await forget_next(world.context.database, world.context.store)
    left = {world.context.store.get(key) for key in keys(world) if "/rounds/" in key}
    assert {b"rows of south", b"scores of south"} <= left
    assert not {b"rows of north", b"scores of north"} & left
    assert [(each["folds"], each["objects"]) for each in await receipts(world)] == [(2, 5)]


async def test_the_same_rows_of_another_client_stay_folded(world: World) -> None:
    round_id = await delivered_round(world, same=True)
    await world.coordinate()
    for nth in range(2):
        await world.distil(StageKind.FOLD, nth=nth, sed_state=b"rows of both")
    await over(world, round_id)
    await ask(world)
    assert await forget_next(world.context.database, world.context.store)
    assert b"rows of both" in {world.context.store.get(key) for key in keys(world)}
    assert (await receipts(world))[0]["folds"] == 0
