"""The first admin's key and the secret of sessions, as every replica of the control plane sets them when it starts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.persistence.api_key_repository import ensure_admin_key, key_by_secret
from fedafd.persistence.database import Database
from fedafd.persistence.login_repository import session_secret
from fedafd.persistence.migrate import migrate
from fedafd.persistence.models import EventRow, utc_now

T = TypeVar("T")


@asynccontextmanager
async def started_together(
    database_url: str, begin: Callable[[AsyncSession], Awaitable[T]]
) -> AsyncIterator[tuple[Database, list[T]]]:
    """One of the replicas, all of which did `begin` at the same time, and what each got by it."""
    await asyncio.to_thread(migrate, database_url)
    replicas = [Database(database_url) for _ in range(4)]
    together = asyncio.Barrier(len(replicas))

    async def start(database: Database) -> T:
        async with database.transaction() as session:
            await together.wait()
            return await begin(session)

    begun = await asyncio.gather(*(start(database) for database in replicas))
    yield replicas[0], begun
    for database in replicas:
        await database.close()


async def test_replicas_that_start_together_set_one_admin_key(database_url: str) -> None:
    async with (
        started_together(database_url, lambda session: ensure_admin_key(session, "fedafd-key.first")) as (
            database,
            _,
        ),
        database.transaction() as session,
    ):
        row = await key_by_secret(session, "fedafd-key.first")
        assert row is not None and row.name == "admin"


async def test_another_secret_replaces_the_admins_key(database_url: str) -> None:
    await asyncio.to_thread(migrate, database_url)
    database = Database(database_url)
    for secret in ("fedafd-key.old", "fedafd-key.new"):
        async with database.transaction() as session:
            await ensure_admin_key(session, secret)
    async with database.transaction() as session:
        assert await key_by_secret(session, "fedafd-key.old") is None
        new = await key_by_secret(session, "fedafd-key.new")
        assert new is not None
        new.revoked_at = utc_now()
    for secret in ("fedafd-key.new", "fedafd-key.newest"):
        async with database.transaction() as session:
            await ensure_admin_key(session, secret)
    async with database.transaction() as session:
        assert await key_by_secret(session, "fedafd-key.new") is None
        told = [event.data for event in await session.scalars(select(EventRow).order_by(EventRow.id))]
        assert [event["was_revoked"] for event in told] == [False, True]
    await database.close()


async def test_replicas_that_start_together_sign_sessions_with_one_secret(database_url: str) -> None:
    async with started_together(database_url, session_secret) as (database, first), database.transaction() as session:
        assert {await session_secret(session), *first} == {first[0]}
    assert len(first[0]) == 64
