"""Presence of agents, and probes that say what is wrong."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text
from tests.control_plane.rest import Rest, in_process, settings_for
from tests.full_disk import full_disk

from fedafd.control_plane.settings import load_settings
from fedafd.domain.errors import ConfigurationError
from fedafd.messaging.presence import PresenceWriter
from fedafd.persistence.database import Database
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.migrate import head_revision
from fedafd.persistence.models import utc_now
from fedafd.storage import StoreSettings
from fedafd.storage.folder import FolderStore


async def test_an_agent_is_there_by_redis_and_by_the_database(
    postgres_url: str, tmp_path: Path, redis_url: str
) -> None:
    settings = settings_for(postgres_url, StoreSettings(url=str(tmp_path / "store")), redis_url=redis_url)
    async with in_process(settings) as rest:
        await rest.federation()
        await rest.enrol("north")
        PresenceWriter(redis_url).seen("trial", "north", "training, epoch 2")
        async with asyncio.timeout(30):
            while True:
                found = (await rest.http.get("/federations/trial/clients/north")).json()
                if found["activity"]:
                    break
                await asyncio.sleep(0.1)
        assert (found["online"], found["activity"]) == (True, "training, epoch 2")
        (listed,) = (await rest.http.get("/federations/trial/clients")).json()["items"]
        assert listed == found
        assert (await rest.http.get("http://test/readyz")).json()["redis"] == "ok"


async def test_without_redis_the_last_call_says_who_is_there(rest: Rest) -> None:
    from datetime import timedelta

    from fedafd.persistence.client_repository import get_client

    await rest.federation()
    await rest.enrol("north")
    assert (await rest.http.get("/federations/trial/clients/north")).json()["online"] is True
    async with rest.context.database.transaction() as session:
        client = await get_client(session, "trial", "north")
        client.last_seen_at = utc_now() - timedelta(minutes=5)
    found = (await rest.http.get("/federations/trial/clients/north")).json()
    assert (found["online"], found["state"]) == (False, "enrolled")


async def test_a_server_that_has_all_is_ready(rest: Rest) -> None:
    answer = await rest.http.get("http://test/readyz")
    assert answer.json() == {"database": "ok", "schema_revision": "ok", "store": "ok", "redis": "not configured"}


async def test_a_store_that_is_full_is_said_so_and_rest_goes_on(rest: Rest) -> None:
    store = rest.context.store
    assert isinstance(store, FolderStore)
    with full_disk(store.root / ".incoming"):
        answer = await rest.http.get("http://test/readyz")
        assert answer.status_code == 503
        assert answer.json()["store"].startswith("StorageFullError: the store refuses writes: ")
        assert "no space left" in answer.json()["store"]
        assert (await rest.http.get("http://test/readyz?serving=true")).status_code == 200
        assert (await rest.http.get("/federations")).status_code == 200


async def test_who_only_reads_waits_for_no_writer(rest: Rest, database_url: str) -> None:
    await rest.federation()
    writer = Database(database_url)
    async with asyncio.timeout(10), writer.transaction() as session:
        await get_federation(session, "trial", lock=True)
        record_event(session, "still.writing", federation_id="trial", actor="test")
        await session.flush()
        assert (await rest.http.get("http://test/readyz")).status_code == 200
        for path in ("", "/rounds", "/clients", "/models", "/events"):
            assert (await rest.http.get(f"/federations/trial{path}")).status_code == 200
        kinds = [each["kind"] for each in (await rest.http.get("/federations/trial/events")).json()["items"]]
        assert kinds == ["federation.created"]
    await writer.close()


async def test_what_is_away_is_named(postgres_url: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    settings = settings_for(postgres_url, StoreSettings(url=str(store)), redis_url="redis://127.0.0.1:1/0")
    async with in_process(settings) as rest:
        answer = await rest.http.get("http://test/readyz")
        assert (answer.status_code, answer.json()["database"], answer.json()["store"]) == (503, "ok", "ok")
        assert "ConnectionError" in answer.json()["redis"]
        assert (await rest.http.get("http://test/readyz?serving=true")).status_code == 200
        assert (await rest.http.get("/federations")).status_code == 200
        (store / ".incoming").rmdir()
        assert "not there" in (await rest.http.get("http://test/readyz")).json()["store"]
        async with rest.context.database.transaction() as session:
            await session.execute(text("UPDATE alembic_version SET version_num = '0001'"))
        assert "run `fedafd migrate`" in (await rest.http.get("http://test/readyz")).json()["schema_revision"]
        async with rest.context.database.transaction() as session:
            await session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        assert (await rest.http.get("http://test/readyz")).json()["schema_revision"] == "ok"
        assert (await rest.http.get("http://test/healthz")).json() == {"status": "ok"}


async def test_strangers_are_told_what_is_away_and_not_where_it_is(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = StoreSettings(url=str(tmp_path / "store"))
    async with in_process(settings_for(postgres_url, store, redis_url="redis://127.0.0.1:1/0")) as rest:
        away = Database("postgresql://somebody@127.0.0.1:1/patients")
        with monkeypatch.context() as patch:
            patch.setattr(rest.context.database, "reading_engine", away.reading_engine)
            answer = await rest.http.get("http://test/readyz")
        await away.close()
    assert answer.status_code == 503
    told = answer.json()
    assert told["database"] == "DatabaseUnavailableError: the database cannot be reached, or is too busy; try again"
    assert told["redis"] == "ConnectionError: no answer; the log has the reason"
    assert not [word for word in ("127.0.0.1", "somebody", "patients", ":1") if word in answer.text]


@pytest.mark.parametrize(
    ("module", "process"), [("control_plane.app", "CONTROL_PLANE"), ("aggregator.server", "AGGREGATOR")]
)
def test_a_process_refuses_a_database_that_is_not_migrated(tmp_path: Path, module: str, process: str) -> None:
    variables = {
        "DATABASE_URL": f"sqlite:///{tmp_path}/new.db",
        "STORE__URL": str(tmp_path / "store"),
        "REDIS_URL": "redis://127.0.0.1:1/0",
    } | ({"INTERNAL_TOKEN": "internal-token-of-tests"} if process == "AGGREGATOR" else {})
    environment = os.environ | {f"FEDAFD_{process}_{key}": value for key, value in variables.items()}
    command = [sys.executable, "-m", f"fedafd.{module}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (1, 2)
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["reason"].endswith(f"needs revision {head_revision()}; run `fedafd migrate` first")


def test_an_empty_file_for_the_admin_key_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("\n")
    given = {"DATABASE_URL": "sqlite:///x.db", "STORE__URL": "x", "ADMIN_KEY_FILE": f"{tmp_path}/key"}
    for name, value in given.items():
        monkeypatch.setenv(f"FEDAFD_CONTROL_PLANE_{name}", value)
    with pytest.raises(ConfigurationError, match="is empty"):
        load_settings().first_admin_key()
