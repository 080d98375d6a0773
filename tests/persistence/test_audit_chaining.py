"""Every write of the audit log goes on with its chain, whoever writes at the same time and whatever stood there."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text, update
from structlog.testing import capture_logs

from fedafd.domain.audit_chain import AuditEntry, ChainCheck
from fedafd.domain.errors import SchemaError
from fedafd.persistence.caller_address import asked_from
from fedafd.persistence.database import Database
from fedafd.persistence.event_repository import events_after, record_event
from fedafd.persistence.federation_repository import add_federation
from fedafd.persistence.migrate import migrate
from fedafd.persistence.models import EventRow
from fedafd.persistence.removal_repository import delete_rows

ODD = {
    "count": 10**17,
    "share": 0.1,
    "large": 1e22,
    "none": None,
    "text": "Zoë \u2028 \\",
    "more": [{"a": [1.0, True]}],
}
OLD = text(
    "INSERT INTO events (at, kind, actor, data) VALUES ('2026-01-02 03:04:05', 'old.one', 'test', '{\"n\": 1.50}')"
)


async def checked(database: Database) -> ChainCheck:
    check = ChainCheck()
    async with database.snapshot() as session:
        for row in await events_after(session, None, 0, 1000):
            entry = AuditEntry(
                id=row.id,
                at=row.at,
                federation=row.federation_id,
                kind=row.kind,
                actor=row.actor,
                address=row.address,
                data=row.data,
                hash=row.hash,
            )
            assert check.misfit(entry) is None
    return check


async def test_replicas_that_write_at_once_make_one_chain_and_log_its_heads(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedafd.persistence.event_repository.is_configured", lambda: True)  # as a service
    await asyncio.to_thread(migrate, database_url)
    replicas = [Database(database_url) for _ in range(3)]

    async def write(database: Database, number: int) -> None:
        async with database.transaction() as session:
            record_event(session, "first", federation_id=None, actor="test", number=number, **ODD)
            record_event(session, "second", federation_id=None, actor="test", number=number)

    with capture_logs() as logs:
        await asyncio.gather(*(write(replicas[number % 3], number) for number in range(12)))
    check = await checked(replicas[0])
    assert check.count == 24
    assert len(logs) == 12
    assert {"event": "audit.head", "log_level": "info", "anchor": str(check.head)} in logs
    for each in replicas:
        await each.close()


async def test_what_was_there_before_is_chained_by_the_migration(database_url: str) -> None:
    await asyncio.to_thread(migrate, database_url, "0016")
    database = Database(database_url)
    for _ in range(2):
        async with database.engine.begin() as connection:
            await connection.execute(OLD)
    await asyncio.to_thread(migrate, database_url)
    assert (await checked(database)).count == 2
    await database.close()


async def test_what_an_older_replica_wrote_is_chained_by_the_next_write(database_url: str) -> None:
    await asyncio.to_thread(migrate, database_url)
    database = Database(database_url)
    for _ in range(2):
        async with database.engine.begin() as connection:
            await connection.execute(OLD)
        async with database.transaction() as session:
            record_event(session, "new.one", federation_id=None, actor="test")
    assert (await checked(database)).count == 4
    await database.close()


async def test_the_deletion_of_a_federation_leaves_the_chain_whole(database_url: str) -> None:
    await asyncio.to_thread(migrate, database_url)
    database = Database(database_url)
    async with database.transaction() as session:
        await add_federation(session, "trial", {})
        record_event(session, "federation.created", federation_id="trial", actor="test", **ODD)
    async with database.transaction() as session:
        await delete_rows(session, "trial")
        record_event(session, "federation.deleted", federation_id=None, actor="test", federation="trial")
    assert (await checked(database)).count == 2
    await database.close()


async def test_a_commit_that_fails_logs_no_head(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedafd.persistence.event_repository.is_configured", lambda: True)  # as a service
    await asyncio.to_thread(migrate, database_url)
    database = Database(database_url)

    async def fail() -> None:
        async with database.transaction() as session:
            record_event(session, "never.happened", federation_id="nobody", actor="test")

    with capture_logs() as logs, pytest.raises(Exception, match="(?i)foreign key"):
        await fail()
    assert not [each for each in logs if each["event"] == "audit.head"]
    await database.close()


async def test_an_entry_tells_from_where_its_actor_asked_and_the_coordinator_is_asked_by_nobody(
    database_url: str,
) -> None:
    await asyncio.to_thread(migrate, database_url)
    database = Database(database_url)
    async with database.transaction() as session:
        with asked_from("192.0.2.7"):
            for actor in ("client:north", "coordinator"):
                record_event(session, "first", federation_id=None, actor=actor)
        record_event(session, "later", federation_id=None, actor="client:south")
    async with database.snapshot() as session:
        told = [(row.actor, row.address) for row in await events_after(session, None, 0)]
    assert told == [("client:north", "192.0.2.7"), ("coordinator", None), ("client:south", None)]
    assert (await checked(database)).count == 3
    async with database.transaction() as session:
        await session.execute(update(EventRow).where(EventRow.actor == "client:north").values(address="192.0.2.8"))
    with pytest.raises(AssertionError):
        await checked(database)
    with pytest.raises(SchemaError, match="entries would not fit their hashes"):
        await asyncio.to_thread(migrate, database_url, "0018")
    await database.close()
