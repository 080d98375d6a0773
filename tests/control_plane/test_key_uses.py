"""When keys were used: counted to the minute, written later, never lost to a database that is away."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from tests.control_plane.rest import Rest, in_process, settings_for

from fedafd.control_plane.key_uses import KeyUses
from fedafd.persistence.api_key_repository import get_key, note_used
from fedafd.persistence.database import Database
from fedafd.persistence.models import ApiKeyRow, utc_now
from fedafd.storage import StoreSettings


async def _admin(rest: Rest) -> ApiKeyRow:
    async with rest.context.database.snapshot() as session:
        return await get_key(session, "admin")


async def test_a_use_is_written_once_a_minute(rest: Rest) -> None:
    uses, before = KeyUses(), utc_now()
    row = await _admin(rest)
    assert row.last_used_at is None
    uses.note(row, row.key_hash)
    assert (await _admin(rest)).last_used_at is None
    await uses.write(rest.context.database)
    first = (await _admin(rest)).last_used_at
    assert first is not None
    assert before <= first <= utc_now()

    row = await _admin(rest)
    uses.note(row, row.key_hash)
    await uses.write(rest.context.database)
    assert (await _admin(rest)).last_used_at == first


async def test_a_database_that_is_away_gets_it_later(rest: Rest) -> None:
    uses = KeyUses()
    row = await _admin(rest)
    uses.note(row, row.key_hash)
    away = Database("sqlite:////no-such-folder/x.db")
    await uses.write(away)
    await away.close()
    assert (await _admin(rest)).last_used_at is None
    await uses.write(rest.context.database)
    assert (await _admin(rest)).last_used_at is not None


async def test_a_later_use_that_another_replica_wrote_stays(rest: Rest) -> None:
    row, later = await _admin(rest), utc_now() + timedelta(minutes=5)
    uses = KeyUses()
    uses.note(row, row.key_hash)
    async with rest.context.database.transaction() as session:
        await note_used(session, row.id, row.key_hash, later)
    await uses.write(rest.context.database)
    assert (await _admin(rest)).last_used_at == later


async def test_a_control_plane_that_stops_writes_what_it_knows(database_url: str, tmp_path: Path) -> None:
    async with in_process(settings_for(database_url, StoreSettings(url=str(tmp_path / "store")))) as rest:
        assert (await rest.http.get("/federations")).status_code == 200
    database = Database(database_url)
    async with database.snapshot() as session:
        assert (await get_key(session, "admin")).last_used_at is not None
    await database.close()
