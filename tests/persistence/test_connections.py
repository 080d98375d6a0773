"""Connections: a full pool is told, not waited for without end; a mode is set once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from tests.databases import migrated

from fedafd.domain.errors import ERROR_STATUS, DatabaseUnavailableError
from fedafd.persistence import database as database_module
from fedafd.persistence.database import Database

_CONNECTIONS = 15
"""SQLAlchemy's pool: 5 kept and 10 more."""


@pytest.fixture
async def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    monkeypatch.setattr(database_module, "_POOL_SECONDS", 0.05)
    url = f"sqlite:///{tmp_path}/test.db"
    await asyncio.to_thread(migrated, url)
    database = Database(url)
    yield database
    await database.close()


async def test_a_full_pool_is_unavailable_for_now(database: Database) -> None:
    async def look() -> None:
        async with database.snapshot() as session:
            await session.execute(text("SELECT 1"))

    async with AsyncExitStack() as stack:
        for _ in range(_CONNECTIONS):
            session = await stack.enter_async_context(database.snapshot())
            await session.execute(text("SELECT 1"))
        with pytest.raises(DatabaseUnavailableError, match="all connections") as raised:
            await look()
    assert raised.value.retryable
    assert ERROR_STATUS[DatabaseUnavailableError].grpc == "UNAVAILABLE"
    await look()  # works once one is free


async def test_a_transaction_on_sqlite_sets_no_mode(database: Database) -> None:
    statements: list[str] = []

    def executed(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    for engine in (database.engine, database.reading_engine):
        event.listen(engine.sync_engine, "before_cursor_execute", executed)
    for transaction in (database.snapshot, database.transaction, database.snapshot):
        async with transaction() as session:
            await session.execute(text("SELECT 1"))
    assert statements == ["BEGIN", "SELECT 1", "BEGIN IMMEDIATE", "SELECT 1", "BEGIN", "SELECT 1"]


async def test_writers_on_sqlite_take_turns_in_order_and_hold_no_connection_while_they_wait(database: Database) -> None:
    order: list[int] = []

    async def write(number: int) -> None:
        async with database.transaction() as session:
            await session.execute(text("SELECT 1"))
            await asyncio.sleep(0.005)
            order.append(number)

    writers = 3 * _CONNECTIONS  # longer than the pool, and than what a connection is waited for
    await asyncio.gather(*(write(number) for number in range(writers)))
    assert order == list(range(writers))
