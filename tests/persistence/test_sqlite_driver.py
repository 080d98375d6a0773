"""SQLite without hops to a thread: what a transaction costs, and that nothing else is different."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiosqlite
import pytest
from sqlalchemy import Column, Integer, MetaData, Table, Text, delete, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from fedafd.domain.errors import DatabaseUnavailableError
from fedafd.persistence.database import Database
from fedafd.persistence.sqlite_driver import DRIVER

_NAMES = Table("names", MetaData(), Column("id", Integer, primary_key=True), Column("name", Text, unique=True))


@asynccontextmanager
async def _database(folder: Path) -> AsyncIterator[Database]:
    database = Database(f"sqlite:///{folder}/names.db")
    async with database.transaction() as session:
        await session.execute(text("CREATE TABLE names (id INTEGER PRIMARY KEY, name TEXT UNIQUE)"))
    async with database.snapshot() as session:
        await session.execute(select(_NAMES))
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
def hops(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows with each hop to a connection's thread."""
    made: list[str] = []
    hop = aiosqlite.Connection._execute

    async def counted(self: aiosqlite.Connection, function: object, *given: object, **more: object) -> object:
        made.append(str(function))
        return await hop(self, function, *given, **more)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(aiosqlite.Connection, "_execute", counted)
    return made


async def test_what_only_reads_takes_no_hop_and_what_writes_two(tmp_path: Path, hops: list[str]) -> None:
    async with _database(tmp_path) as database:
        hops.clear()
        async with database.snapshot() as session:
            for _ in range(5):
                await session.scalar(select(func.count()).select_from(_NAMES))
        assert hops == []
        async with database.transaction() as session:
            for name in "abcde":
                await session.execute(insert(_NAMES).values(name=name))
        assert len(hops) == 2


async def test_who_waits_for_another_process_holds_up_nobody_else(tmp_path: Path) -> None:
    async with _database(tmp_path) as database:
        other = sqlite3.connect(tmp_path / "names.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

        async def write() -> None:
            async with database.transaction() as session:
                await session.execute(insert(_NAMES).values(name="late"))

        waiting = asyncio.ensure_future(write())
        await asyncio.sleep(0.05)
        async with database.snapshot() as session:
            assert await session.scalar(select(func.count()).select_from(_NAMES)) == 0
        assert not waiting.done()
        other.execute("COMMIT")
        await waiting
        async with database.snapshot() as session:
            assert (await session.scalars(select(_NAMES.c.name))).all() == ["late"]
        other.close()


async def test_who_gives_up_waiting_blocks_nobody_and_leaves_no_transaction(tmp_path: Path) -> None:
    async with _database(tmp_path) as database:
        other = sqlite3.connect(tmp_path / "names.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

        async def write(name: str) -> None:
            async with database.transaction() as session:
                await session.execute(insert(_NAMES).values(name=name))

        given_up = asyncio.ensure_future(write("never"))
        await asyncio.sleep(0.05)
        given_up.cancel()
        for _ in range(5):  # the loop runs on, though the thread still waits
            await asyncio.sleep(0.01)
        other.execute("COMMIT")
        with suppress(asyncio.CancelledError):
            await given_up
        await write("kept")
        async with database.snapshot() as session:
            assert (await session.scalars(select(_NAMES.c.name))).all() == ["kept"]
        other.close()


@pytest.mark.parametrize("driver", ["aiosqlite", DRIVER])
async def test_statements_give_what_the_usual_driver_gives(driver: str, tmp_path: Path) -> None:
    engine: AsyncEngine = create_async_engine(f"sqlite+{driver}:///{tmp_path}/names.db")
    async with engine.begin() as connection:
        await connection.run_sync(_NAMES.metadata.create_all)
        assert (await connection.execute(insert(_NAMES).values(name="a"))).inserted_primary_key == (1,)
        many = await connection.execute(insert(_NAMES).returning(_NAMES.c.id), [{"name": "b"}, {"name": "c"}])
        assert many.scalars().all() == [2, 3]
        await connection.execute(insert(_NAMES), [{"name": "d"}, {"name": "e"}])
        changed = await connection.execute(update(_NAMES).where(_NAMES.c.id > 3).values(name=_NAMES.c.name + "!"))
        assert changed.rowcount == 2
        assert (await connection.execute(delete(_NAMES).where(_NAMES.c.id == 99))).rowcount == 0
        rows = await connection.execute(select(_NAMES).order_by(_NAMES.c.id))
        assert [(row.id, row.name) for row in rows] == [(1, "a"), (2, "b"), (3, "c"), (4, "d!"), (5, "e!")]
        streamed = await connection.stream(select(_NAMES.c.name).order_by(_NAMES.c.id))
        assert [name async for name in streamed.scalars()] == ["a", "b", "c", "d!", "e!"]
    async with engine.connect() as connection:
        await connection.execute(insert(_NAMES).values(name="lost"))
        with pytest.raises(IntegrityError):
            await connection.execute(insert(_NAMES).values(name="a"))
        await connection.rollback()
    async with engine.connect() as connection:
        assert await connection.scalar(select(func.count()).select_from(_NAMES)) == 5
    await engine.dispose()


async def test_a_snapshot_cannot_write(tmp_path: Path) -> None:
    async with _database(tmp_path) as database:
        with pytest.raises(DatabaseUnavailableError):
            await _write_in_snapshot(database)


async def _write_in_snapshot(database: Database) -> None:
    async with database.snapshot() as session:
        await session.execute(insert(_NAMES).values(name="a"))
