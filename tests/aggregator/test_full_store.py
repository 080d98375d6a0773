"""A store that is full: sites that wait for it are not lost, and a round that fails meanwhile says why."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import grpc
import grpc.aio
import pytest
from sqlalchemy import update
from tests.aggregator.world import World, refused
from tests.full_disk import full_disk

from fedafd.aggregator.health import ClockedHealth, watch_health
from fedafd.domain.states import RoundState
from fedafd.persistence.models import ParticipationRow, utc_now


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One database: the store is what differs."""
    return f"sqlite:///{tmp_path}/test.db"


async def silent_for_an_hour(world: World) -> None:
    world.has_led_for_long()
    await world.context.progress.flush()
    async with world.context.database.transaction() as session:
        await session.execute(update(ParticipationRow).values(last_progress_at=utc_now() - timedelta(hours=1)))


async def test_a_site_that_waits_for_a_full_store_is_not_silent_and_delivers_what_it_trained(
    world: World, tmp_path: Path
) -> None:
    caller = await world.enrol("north")
    round_id = await world.start_round()
    await world.prepare()
    with full_disk(tmp_path / "store" / "federations" / "trial" / "rounds" / "1"):
        await silent_for_an_hour(world)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await world.upload(caller, round_id, world.reps())
        assert "no space left" in refused(raised, grpc.StatusCode.RESOURCE_EXHAUSTED, "storage-full")
        await world.context.progress.flush()
        await world.coordinate()
    upload_id = await world.upload(caller, round_id, world.reps())
    with full_disk(tmp_path / "store" / ".incoming"):
        await silent_for_an_hour(world)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await world.deliver(caller, round_id, world.reps())
        refused(raised, grpc.StatusCode.RESOURCE_EXHAUSTED, "storage-full")
        await world.context.progress.flush()
        await world.coordinate()
    assert upload_id
    assert (await world.deliver(caller, round_id, world.reps())).accepted


async def test_a_round_that_fails_while_the_store_is_full_says_so(world: World, tmp_path: Path) -> None:
    await world.enrol("north")
    round_id = await world.start_round()
    await world.prepare()
    with full_disk(tmp_path / "store" / ".incoming"):
        watching = asyncio.ensure_future(watch_health(world.context, ClockedHealth()))
        async with asyncio.timeout(60):
            while not world.context.store_trouble:  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.05)
        watching.cancel()
        await silent_for_an_hour(world)
        await world.coordinate()
    row = await world.round(round_id)
    assert row.state == RoundState.FAILED.value
    assert row.reason is not None
    assert row.reason.startswith("quorum not reached: 0 of 1 deliveries; north: no sign of progress for ")
    assert "; the store refuses writes: " in row.reason
    assert "no space left" in row.reason
