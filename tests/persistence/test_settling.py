"""Stages and deliveries that end together, on both databases: each as if it came alone, by statements for all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, update
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.domain.config import FederationConfig
from fedafd.domain.kinds import Modality, ParticipantKind, StageKind
from fedafd.domain.states import ParticipationState, StageState
from fedafd.persistence.client_repository import invite_client
from fedafd.persistence.database import Database
from fedafd.persistence.federation_repository import add_federation
from fedafd.persistence.migrate import migrate
from fedafd.persistence.models import ParticipationRow, StageRow, utc_now
from fedafd.persistence.participation_repository import invite_cohort, list_participations, settle_participation
from fedafd.persistence.round_repository import add_rounds
from fedafd.persistence.settling_repository import Completion, complete_stages, deliver_participations
from fedafd.persistence.stage_repository import add_stage, claim_stage, list_stages

ENTRY: Any = {"sha256": "0" * 64, "size_bytes": 3, "purpose": "sed-state", "key": "a/b"}


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    await asyncio.to_thread(migrate, database_url)
    database = Database(database_url)
    yield database
    await database.close()


async def started(session: AsyncSession) -> str:
    await add_federation(session, "trial", FederationConfig(name="trial").model_dump(mode="json"))
    (row,) = await add_rounds(session, "trial", {}, "0" * 64, 1)
    return row.id


async def claimed_folds(session: AsyncSession, round_id: str, count: int) -> list[str]:
    for position in range(count):
        stage = await add_stage(session, round_id, StageKind.FOLD, {}, modality=Modality.IMAGE, position=position)
        assert stage is not None
        await claim_stage(session, stage.id, "distiller", utc_now())
    return [stage.id for stage in await list_stages(session, round_id)]


def completion(stage_id: str, token: int = 1) -> Completion:
    return Completion(stage_id=stage_id, token=token, outputs={"sed-state": ENTRY}, metrics={"a": 0.5})


async def set_state(session: AsyncSession, stage_id: str, **values: Any) -> None:
    await session.execute(update(StageRow).where(StageRow.id == stage_id).values(**values))


async def test_each_completed_stage_is_settled_by_its_own_claim(database: Database) -> None:
    async with database.transaction() as session:
        round_id = await started(session)
        held, cut_off, claimed_anew, cancelled, repeated = await claimed_folds(session, round_id, 5)
        await set_state(session, cut_off, state=StageState.PENDING.value)
        await set_state(session, claimed_anew, attempt=2)
        await set_state(session, cancelled, state=StageState.CANCELLED.value)
        assert not await complete_stages(session, [completion(repeated)])
    async with database.transaction() as session:
        ids = (held, cut_off, claimed_anew, cancelled, repeated, "f" * 32)
        assert await complete_stages(session, [completion(each) for each in ids]) == {
            claimed_anew,
            cancelled,
            "f" * 32,
        }
    async with database.snapshot() as session:
        stages = {stage.id: stage for stage in await list_stages(session, round_id)}
    assert {stages[each].state for each in (held, cut_off, repeated)} == {"done"}
    assert (stages[claimed_anew].state, stages[cancelled].state) == ("running", "cancelled")
    done = stages[held]
    assert (done.outputs, done.metrics, done.progress) == ({"sed-state": ENTRY}, {"a": 0.5}, 1.0)
    assert done.finished_at is not None
    assert stages[claimed_anew].outputs is None


async def parts_of(session: AsyncSession, round_id: str, count: int) -> list[ParticipationRow]:
    lifetime = timedelta(hours=1)
    clients = [
        (await invite_client(session, "trial", f"site-{number}", ParticipantKind.PAIR, lifetime))[0]
        for number in range(count)
    ]
    await invite_cohort(session, round_id, clients)
    return [part for part, _ in await list_participations(session, round_id)]


def delivery(**changed: Any) -> dict[str, Any]:
    values = {"receipt": "r", "bytes_up": 3, "bytes_down": 4, "metrics": {"x": 1.0}, "num_private_samples": 9}
    return values | {"representations_sha256": "0" * 64, "region_clients": None} | changed


async def test_deliveries_settle_the_parts_that_wait_and_no_other(database: Database) -> None:
    now = utc_now()
    async with database.transaction() as session:
        round_id = await started(session)
        first, second, dropped = await parts_of(session, round_id, 3)
        await settle_participation(session, dropped.id, ParticipationState.DROPPED, reason="late")
        given = {part.id: delivery(bytes_up=number) for number, part in enumerate((first, second, dropped))}
        assert set(await deliver_participations(session, given, now)) == {first.id, second.id}
        assert not set(await deliver_participations(session, given, now))
    async with database.snapshot() as session:
        parts = [part for part, _ in await list_participations(session, round_id)]
    assert [part.state for part in parts] == ["delivered", "delivered", "dropped"]
    assert [(part.bytes_up, part.bytes_down, part.progress) for part in parts[:2]] == [(0, 4, 1.0), (1, 4, 1.0)]
    assert (parts[0].metrics, parts[0].num_private_samples, parts[0].settled_at) == ({"x": 1.0}, 9, now)
    assert (parts[2].receipt, parts[2].reason) == (None, "late")


async def test_many_take_as_many_statements_as_one(database: Database) -> None:
    executed: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        executed.append(statement.partition(" ")[0])

    async with database.transaction() as session:
        round_id = await started(session)
        ids, parts = await claimed_folds(session, round_id, 12), await parts_of(session, round_id, 12)
        event.listen(database.engine.sync_engine, "before_cursor_execute", note)
        await complete_stages(session, [completion(each) for each in ids])
        await deliver_participations(session, {part.id: delivery() for part in parts}, utc_now())
    assert [what for what in executed if what in ("SELECT", "UPDATE")] == ["SELECT", "UPDATE"] * 2
