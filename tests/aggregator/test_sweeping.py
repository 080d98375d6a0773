"""What rounds leave in the store is removed once they are over, and nothing else is."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from tests.aggregator.world import World
from typer.testing import CliRunner

from fedafd.aggregator import sweeping
from fedafd.aggregator.orphans import OrphanKind
from fedafd.aggregator.sweeping import prune, sweep_next, sweep_rounds
from fedafd.cli.main import app
from fedafd.domain.errors import StorageUnavailableError
from fedafd.domain.kinds import StageKind
from fedafd.domain.states import RoundState
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.models import ArtifactRow, ParticipationRow, RoundRow, StageRow, utc_now
from fedafd.persistence.object_repository import named_objects
from fedafd.persistence.stage_repository import add_stage
from fedafd.storage.folder import FolderStore


def keys(world: World, prefix: str = "federations/") -> list[str]:
    return [found.key for found in world.context.store.list(prefix)]


async def sweep(world: World) -> None:
    while await sweep_next(world.context.database, world.context.store):
        pass


async def late(world: World) -> None:
    """Everybody who has not delivered was not heard of for an hour."""
    world.has_led_for_long()
    await world.context.progress.flush()
    async with world.context.database.transaction() as session:
        await session.execute(update(ParticipationRow).values(last_progress_at=utc_now() - timedelta(hours=1)))
    await world.coordinate()


async def failed_round(world: World) -> str:
    """A round whose one client uploaded and then went silent."""
    caller = await world.enrol("north")
    round_id = await world.start_round()
    await world.prepare()
    await world.upload(caller, round_id, world.reps())
    await late(world)
    assert (await world.round(round_id)).state == RoundState.FAILED.value
    return round_id


async def completed_round(world: World) -> str:
    """A round that one client delivered to; the other one uploaded and went silent."""
    good, lost = await world.enrol("north"), await world.enrol("south")
    round_id = await world.start_round()
    await world.prepare()
    assert (await world.deliver(good, round_id, world.reps())).accepted
    await world.upload(lost, round_id, world.reps()[:-1] + b"x")
    await late(world)
    await world.distil(StageKind.FOLD, sed_state=b"sed")
    await world.distil(StageKind.DISTIL, server_state=b"state 2")
    await world.distil(StageKind.EVALUATE, server_state=b"state 2", model__config=b"{}")
    assert (await world.round(round_id)).state == RoundState.COMPLETED.value
    return round_id


async def test_a_failed_round_leaves_no_object_and_no_open_stage(world: World) -> None:
    round_id = await failed_round(world)
    async with world.context.database.transaction() as session:
        # A delivery that was committed while the round failed adds its fold after the others were cancelled.
        assert await add_stage(session, round_id, StageKind.FOLD, {}, position=3) is not None
    assert any("/chunks/" in key for key in keys(world))
    await sweep(world)
    assert keys(world) == []
    async with world.context.database.snapshot() as session:
        states = set(await session.scalars(select(StageRow.state).where(StageRow.round_id == round_id)))
        assert states <= {"done", "cancelled"}
        assert await named_objects(session) == []
        assert (await session.get_one(RoundRow, round_id)).swept_at is not None
    assert not await sweep_next(world.context.database, world.context.store)


async def test_a_completed_round_keeps_all_that_is_named_but_deliveries_and_loses_the_chunks(world: World) -> None:
    await completed_round(world)
    async with world.context.database.snapshot() as session:
        named = {each.key for each in await named_objects(session)}
        sent = set(await session.scalars(select(ArtifactRow.key).where(ArtifactRow.client_id.is_not(None))))
    assert set(keys(world)) > named > sent
    await sweep(world)
    assert set(keys(world)) == named - sent


async def test_an_open_round_is_not_touched(world: World) -> None:
    caller = await world.enrol("north")
    round_id = await world.start_round()
    await world.prepare()
    upload_id = await world.upload(caller, round_id, world.reps())
    world.context.store.put("federations/trial/rounds/1/sed-state/abc", b"written, and not named yet")
    before = keys(world)
    await sweep(world)
    assert await prune(world.context.database, world.context.store) == {}
    assert keys(world) == before
    assert (await world.deliver(caller, round_id, world.reps())).accepted
    assert upload_id


async def test_deliveries_of_a_failed_round_stay_where_they_may_count_in_a_later_one(world: World) -> None:
    async with world.context.database.transaction() as session:
        federation = await get_federation(session, "trial")
        distillation = federation.config["distillation"] | {"staleness_decay": 0.5}
        federation.config = federation.config | {"distillation": distillation}
    good, _ = await world.enrol("north"), await world.enrol("south")
    round_id = await world.start_round(quorum={"min_clients": 2})
    await world.prepare()
    assert (await world.deliver(good, round_id, world.reps())).accepted
    await late(world)
    assert (await world.round(round_id)).state == RoundState.FAILED.value
    await sweep(world)
    async with world.context.database.snapshot() as session:
        left = list(await session.scalars(select(ArtifactRow)))
    assert [row.purpose for row in left] == ["representations"]
    assert keys(world) == [left[0].key]


async def test_a_dry_run_tells_and_removes_nothing(world: World) -> None:
    await failed_round(world)
    before = keys(world)
    told = await prune(world.context.database, world.context.store, dry_run=True)
    assert keys(world) == before
    assert told[OrphanKind.CHUNKS].objects == 1
    assert told[OrphanKind.FAILED].objects == 4
    assert sum(amount.objects for amount in told.values()) == len(before)
    assert await prune(world.context.database, world.context.store) == told
    assert keys(world) == []
    assert await prune(world.context.database, world.context.store) == {}


async def test_objects_of_a_federation_that_the_database_does_not_know_are_left_unless_asked_for(world: World) -> None:
    world.context.store.put("federations/elsewhere/rounds/1/sed-state/abc", b"of another database")
    told = await prune(world.context.database, world.context.store)
    assert told[OrphanKind.FOREIGN].objects == 1
    assert keys(world) == ["federations/elsewhere/rounds/1/sed-state/abc"]
    await prune(world.context.database, world.context.store, foreign=True)
    assert keys(world) == []


async def test_writes_of_killed_processes_are_removed_after_a_day(world: World, tmp_path: Path) -> None:
    old, new = (tmp_path / "store" / ".incoming" / name for name in ("old", "new"))
    old.write_bytes(bytes(10))
    new.write_bytes(bytes(20))
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    told = await prune(world.context.database, world.context.store)
    assert (told[OrphanKind.UNFINISHED].objects, told[OrphanKind.UNFINISHED].size_bytes) == (1, 10)
    assert (old.exists(), new.exists()) == (False, True)


async def test_copies_of_what_is_named_stay(world: World) -> None:
    await completed_round(world)
    key = next(key for key in keys(world) if "/server-state/" in key)
    world.context.store.put(f"{key}.copy", world.context.store.get(key))
    world.context.store.put("federations/trial/rounds/1/server-state/other.copy", b"of nothing")
    await prune(world.context.database, world.context.store)
    assert f"{key}.copy" in keys(world)
    assert "federations/trial/rounds/1/server-state/other.copy" not in keys(world)


async def test_the_command_tells_what_it_removed(
    world: World, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await failed_round(world)
    monkeypatch.setenv("FEDAFD_AGGREGATOR_DATABASE_URL", database_url)
    monkeypatch.setenv("FEDAFD_AGGREGATOR_INTERNAL_TOKEN", "internal-token-of-tests")
    monkeypatch.setenv("FEDAFD_AGGREGATOR_STORE__URL", str(tmp_path / "store"))
    for options, word in ((["--dry-run"], "would be removed"), ([], "removed")):
        result = await asyncio.to_thread(CliRunner().invoke, app, ["store", "prune", *options])
        assert result.exit_code == 0, result.output
        assert "chunks of uploads that no round waits for" in result.output
        assert word in result.output
    assert list(FolderStore(tmp_path / "store").list("federations/")) == []
    result = await asyncio.to_thread(CliRunner().invoke, app, ["store", "prune"])
    assert "nothing that could be removed" in result.output


async def test_who_coordinates_sweeps_by_itself_and_goes_on_after_an_outage(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    round_id = await failed_round(world)
    outages = [StorageUnavailableError("the store is away")]
    delete = world.context.store.delete

    def away_once(key: str) -> None:
        if outages:
            raise outages.pop()
        delete(key)

    monkeypatch.setattr(world.context.store, "delete", away_once)
    assert world.coordinator.leading
    sweeps = asyncio.ensure_future(sweep_rounds(world.context, world.coordinator, seconds=0.01, pause_seconds=0.01))
    async with asyncio.timeout(20):
        while (await world.round(round_id)).swept_at is None:
            assert not sweeps.done()
            await asyncio.sleep(0.02)
    sweeps.cancel()
    assert not outages
    assert keys(world) == []


async def test_without_an_open_round_the_sweep_looks_seldom_and_at_once_with_news(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[bool] = []
    again = asyncio.Event()

    async def counted(*given: Any) -> bool:
        looks.append(await sweep_next(*given))
        if len(looks) > 1:
            again.set()
        return looks[-1]

    monkeypatch.setattr(sweeping, "sweep_next", counted)
    await world.coordinate()
    assert world.coordinator.leading
    assert world.coordinator.idle
    sweeps = asyncio.ensure_future(sweep_rounds(world.context, world.coordinator, seconds=0.5))
    await asyncio.sleep(1.4)
    assert len(looks) == 1
    world.context.wakeups.changed("trial")
    await asyncio.wait_for(again.wait(), 20)
    sweeps.cancel()
