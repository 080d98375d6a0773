"""The audit log's ids grow in the order in which its events become visible."""

from __future__ import annotations

import asyncio

import pytest

from fedafd.domain.errors import ConcurrentChangeError
from fedafd.persistence.database import Database
from fedafd.persistence.event_repository import events_after, last_event_id, record_event
from fedafd.persistence.federation_repository import add_federation
from fedafd.persistence.migrate import migrate
from fedafd.persistence.models import FederationRow


async def _ready(url: str) -> Database:
    await asyncio.to_thread(migrate, url)
    return Database(url)


async def _kinds(database: Database, after: int = 0) -> list[tuple[int, str]]:
    async with database.transaction() as session:
        return [(row.id, row.kind) for row in await events_after(session, None, after)]


async def test_a_reader_that_goes_on_from_the_last_id_misses_nothing(postgres_url: str) -> None:
    database = await _ready(postgres_url)
    async with database.transaction() as slow:
        record_event(slow, "slow.began_first", federation_id=None, actor="test")
        await slow.flush()
        async with database.transaction() as quick:
            record_event(quick, "quick.committed_first", federation_id=None, actor="test")
        seen = await _kinds(database)
        assert [kind for _, kind in seen] == ["quick.committed_first"]
    assert [kind for _, kind in await _kinds(database, seen[-1][0])] == ["slow.began_first"]
    await database.close()


async def test_an_event_of_a_transaction_that_failed_is_not_there(database_url: str) -> None:
    database = await _ready(database_url)

    async def fail() -> None:
        async with database.transaction() as session:
            record_event(session, "never.happened", federation_id=None, actor="test")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert await _kinds(database) == []
    async with database.transaction() as session:
        assert await last_event_id(session) == 0
    await database.close()


async def test_events_of_a_transaction_keep_their_order(database_url: str) -> None:
    database = await _ready(database_url)
    async with database.transaction() as session:
        async with session.begin_nested():
            record_event(session, "first", federation_id=None, actor="test")
        record_event(session, "second", federation_id=None, actor="test")
    assert [kind for _, kind in await _kinds(database)] == ["first", "second"]
    await database.close()


async def test_two_that_take_the_same_name_are_told_apart(postgres_url: str) -> None:
    database = await _ready(postgres_url)

    async def come_late() -> None:
        async with database.transaction() as late:
            await late.get(FederationRow, "trial")
            async with database.transaction() as early:
                await add_federation(early, "trial", {})
            late.add(FederationRow(id="trial", config={}))

    with pytest.raises(ConcurrentChangeError):
        await come_late()
    await database.close()
