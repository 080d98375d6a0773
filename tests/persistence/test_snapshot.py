"""Transactions that only read."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text
from tests.databases import migrated

from fedafd.domain.errors import DatabaseUnavailableError
from fedafd.persistence.database import Database
from fedafd.persistence.event_repository import events_after, record_event


@pytest.fixture
def url(database_url: str) -> str:
    migrated(database_url)
    return database_url


async def _note(database: Database, kind: str) -> None:
    async with database.transaction() as session:
        record_event(session, kind, federation_id=None, actor="test")


async def test_a_reader_waits_for_no_writer_and_sees_one_moment(url: str) -> None:
    database, other = Database(url), Database(url)
    await _note(database, "before")
    async with other.transaction() as writer:
        record_event(writer, "meanwhile", federation_id=None, actor="test")
        await writer.flush()
        async with asyncio.timeout(10), database.snapshot() as reader:
            assert [row.kind for row in await events_after(reader, None, 0)] == ["before"]
            await writer.commit()
            assert [row.kind for row in await events_after(reader, None, 0)] == ["before"]
    async with database.snapshot() as reader:
        assert [row.kind for row in await events_after(reader, None, 0)] == ["before", "meanwhile"]
    for each in (database, other):
        await each.close()


async def test_a_reader_cannot_write_and_its_connection_can_again_afterwards(url: str) -> None:
    database = Database(url)

    async def write() -> None:
        async with database.snapshot() as session:
            await session.execute(text("DELETE FROM events"))

    for _ in range(3):
        await _note(database, "kept")
        with pytest.raises(Exception, match="unavailable|cannot be reached|read-only"):
            await write()
    async with database.snapshot() as session:
        assert len(await events_after(session, None, 0)) == 3
    await database.close()


async def test_the_log_says_why_a_database_failed(
    capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('gone')}/no-folder/x.db")

    async def read() -> None:
        async with database.snapshot() as session:
            await events_after(session, None, 0)

    with pytest.raises(DatabaseUnavailableError, match="^the database cannot be reached, or is too busy; try again$"):
        await read()
    assert "unable to open database file" in capsys.readouterr().out
    await database.close()
