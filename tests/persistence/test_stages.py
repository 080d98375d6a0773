"""Stages on both databases: distillers that claim folds at the same moment get different ones, and all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import func, select

from fedafd.domain.config import FederationConfig
from fedafd.domain.errors import StageLostError
from fedafd.domain.kinds import Modality, StageKind
from fedafd.persistence.database import Database
from fedafd.persistence.federation_repository import add_federation
from fedafd.persistence.migrate import migrate
from fedafd.persistence.models import StageRow, utc_now
from fedafd.persistence.round_repository import add_rounds
from fedafd.persistence.stage_repository import (
    add_stage,
    claim_companions,
    claim_stage,
    free_stage,
    get_stage,
    list_stages,
    renew_companions,
)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    await asyncio.to_thread(migrate, database_url)
    database = Database(database_url)
    yield database
    await database.close()


async def waiting_folds(database: Database, count: int) -> list[str]:
    async with database.transaction() as session:
        await add_federation(session, "trial", FederationConfig(name="trial").model_dump(mode="json"))
        (row,) = await add_rounds(session, "trial", {}, "0" * 64, 1)
        for position in range(count):
            await add_stage(session, row.id, StageKind.FOLD, {}, modality=Modality.IMAGE, position=position)
        return [stage.id for stage in await list_stages(session, row.id)]


async def test_distillers_that_claim_at_the_same_time_share_the_folds(database: Database) -> None:
    ids = await waiting_folds(database, 12)
    meet = asyncio.Barrier(4)

    async def claim(number: int) -> list[str]:
        worker = f"distiller-{number}"
        await meet.wait()
        async with database.transaction() as session:
            stage, _ = await get_stage(session, ids[number])
            stage = await free_stage(session, stage, worker)
            try:
                await claim_stage(session, stage.id, worker, utc_now())
            except StageLostError:  # another one was quicker; its message is worth nothing now
                return []
            others, _ = await claim_companions(session, stage, worker, 2)
            await asyncio.sleep(0.05)
            return [stage.id, *(each.id for each in others)]

    claimed = await asyncio.gather(*(claim(number) for number in range(4)))
    flat = [each for mine in claimed for each in mine]
    assert len(flat) == len(set(flat))
    assert max(len(mine) for mine in claimed) == 3
    async with database.snapshot() as session:
        running = select(func.count()).where(StageRow.state == "running")
        assert await session.scalar(running) == len(flat)


async def test_companions_live_with_the_fold_that_was_claimed_with_them(database: Database) -> None:
    ids = await waiting_folds(database, 3)
    async with database.transaction() as session:
        stage, _ = await get_stage(session, ids[0])
        await claim_stage(session, ids[0], "one", utc_now())
        (companion,), (announced,) = await claim_companions(session, stage, "one", 1)
        assert announced < companion.last_progress_at
        assert (companion.id, companion.attempt, companion.worker) == (ids[1], 1, "one")
        before = companion.alive_at
    async with database.transaction() as session:
        await renew_companions(session, ids[0], stepped=False)
    async with database.snapshot() as session:
        found = {stage.id: stage for stage in (await session.scalars(select(StageRow))).all()}
    assert found[ids[1]].alive_at > before
    assert found[ids[1]].last_progress_at == before
    assert found[ids[2]].state == "pending"
