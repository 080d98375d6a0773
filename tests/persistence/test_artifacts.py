"""Blobs that are registered, by several at the same time too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import select

from fedafd.artifacts.ref import ArtifactRef
from fedafd.persistence.artifact_repository import NewArtifact, add_artifacts
from fedafd.persistence.database import Database
from fedafd.persistence.federation_repository import add_federation
from fedafd.persistence.migrate import migrate
from fedafd.persistence.models import ArtifactRow
from fedafd.persistence.round_repository import add_rounds


@pytest.fixture
async def databases(database_url: str) -> AsyncIterator[tuple[Database, Database]]:
    """One database, as two aggregators have it."""
    await asyncio.to_thread(migrate, database_url)
    both = Database(database_url), Database(database_url)
    yield both
    for database in both:
        await database.close()


def _new(round_id: str, *names: str, client_id: str | None = None) -> list[NewArtifact]:
    entries: list[ArtifactRef] = [
        {"sha256": name * 64, "size_bytes": 3, "purpose": "representations", "key": f"federations/trial/{name}"}
        for name in names
    ]
    return [NewArtifact("trial", entry, round_id=round_id, client_id=client_id) for entry in entries]


async def _round(database: Database) -> str:
    async with database.transaction() as session:
        await add_federation(session, "trial", {})
        (row,) = await add_rounds(session, "trial", {}, "0" * 64, 1)
        return row.id


async def _keys(database: Database) -> list[str]:
    async with database.snapshot() as session:
        return list(await session.scalars(select(ArtifactRow.key).order_by(ArtifactRow.key)))


async def test_the_same_blob_of_two_clients_is_registered_once(databases: tuple[Database, Database]) -> None:
    database, _ = databases
    round_id = await _round(database)
    for _ in range(2):
        async with database.transaction() as session:
            await add_artifacts(session, [*_new(round_id, "a", "b"), *_new(round_id, "b")])
    assert await _keys(database) == ["federations/trial/a", "federations/trial/b"]


async def test_two_aggregators_register_the_same_blobs_at_once_in_any_order(
    databases: tuple[Database, Database],
) -> None:
    one, other = databases
    round_id = await _round(one)
    begun = asyncio.Event()

    async def late() -> None:
        async with other.transaction() as session:
            begun.set()
            await add_artifacts(session, _new(round_id, "c", "b", "a"))

    async with one.transaction() as session:
        await add_artifacts(session, _new(round_id, "a", "b"))
        waiting = asyncio.create_task(late())
        if not one.is_sqlite:  # whose writers take turns
            await begun.wait()
        await asyncio.wait((waiting,), timeout=0.5)
        assert not waiting.done()
        await add_artifacts(session, _new(round_id, "c"))
    await asyncio.wait_for(waiting, 20)
    assert await _keys(one) == [f"federations/trial/{name}" for name in "abc"]
