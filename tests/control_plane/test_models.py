"""Model versions: list, promote, roll back, download whole, in parts and by ticket; damage never leaves the server."""

from __future__ import annotations

import io
import tarfile
import tempfile
import uuid
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import update
from tests.control_plane.rest import Rest, in_process, problem, settings_for
from tests.servers import Minio

from fedafd.persistence.models import ModelVersionRow, PersonalizedModelRow, utc_now
from fedafd.storage import StoreSettings
from fedafd.storage.s3 import S3Store

MODELS = "/federations/trial/models"


async def test_versions_are_listed_promoted_and_rolled_back(rest: Rest) -> None:
    await rest.federation()
    await rest.publish(3)
    listed = (await rest.http.get(MODELS)).json()["items"]
    lineage = [(m["version"], m["parent_version"], m["current"]) for m in listed]
    assert lineage == [(1, None, False), (2, 1, False), (3, 2, True)]
    assert (await rest.http.post(f"{MODELS}/rollback")).json()["version"] == 2
    assert (await rest.http.get(f"{MODELS}/current")).json()["version"] == 2
    assert (await rest.http.post(f"{MODELS}/3/promote")).json() | {
        "created_at": "",
        "promoted_at": "",
    } == {
        "version": 3,
        "parent_version": 2,
        "current": True,
        "metrics": {"rsum": 3.0},
        "created_at": "",
        "promoted_at": "",
        "has_state": True,
        "has_files": True,
    }
    await rest.http.post(f"{MODELS}/1/promote")
    assert "its first" in problem(await rest.http.post(f"{MODELS}/rollback"), 409, "conflict")
    problem(await rest.http.post(f"{MODELS}/4/promote"), 404, "not-found")
    events = (await rest.http.get("/federations/trial/events")).json()["items"]
    moves = [(e["kind"], e["data"]["old"], e["data"]["new"]) for e in events if e["kind"].startswith("model.")]
    assert moves == [("model.rolled_back", 3, 2), ("model.promoted", 2, 3), ("model.promoted", 3, 1)]


async def test_what_retention_let_go_of_is_refused_with_the_oldest_that_can_be_had(rest: Rest) -> None:
    await rest.federation()
    await rest.publish(14)
    await rest.enrol("north")
    await rest.share("north")
    async with rest.context.database.transaction() as session:
        old = update(ModelVersionRow).where(ModelVersionRow.version.in_([1, 2, 13]))
        await session.execute(old.values(state_removed_at=utc_now()))
        gone = update(ModelVersionRow).where(ModelVersionRow.version == 1)
        await session.execute(gone.values(files_removed_at=utc_now()))
        await session.execute(update(PersonalizedModelRow).values(files_removed_at=utc_now()))
    listed = (await rest.http.get(MODELS)).json()["items"]
    assert [m["version"] for m in listed if not m["has_state"]] == [1, 2, 13]
    assert [m["version"] for m in listed if not m["has_files"]] == [1]
    words = problem(await rest.http.post(f"{MODELS}/rollback"), 409, "version-removed")
    assert "no round can start from version 13" in words
    assert "The oldest that can be had is version 3; there are 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14" in words
    assert "retention.keep_rounds" in problem(await rest.http.post(f"{MODELS}/2/promote"), 409, "version-removed")
    assert (await rest.http.get(f"{MODELS}/2/archive")).status_code == 200
    for path in ("archive", "files/config.json"):
        words = problem(await rest.http.get(f"{MODELS}/1/{path}"), 409, "version-removed")
        assert "retention.keep_models" in words
        assert "oldest that can be had is version 2" in words
    shared = "/federations/trial/clients/north/models"
    assert [m["has_files"] for m in (await rest.http.get(shared)).json()["items"]] == [False]
    words = problem(await rest.http.get(f"{shared}/1/archive"), 409, "version-removed")
    assert words.endswith("There is no other")


async def test_a_version_comes_as_files_and_as_one_archive(rest: Rest) -> None:
    await rest.federation()
    await rest.publish(1)
    found = (await rest.http.get(f"{MODELS}/1")).json()
    assert [file["path"] for file in found["files"]] == ["config.json", "weights/model.safetensors"]
    weights = await rest.http.get(f"{MODELS}/1/files/weights/model.safetensors")
    assert weights.content == b"global-1" * 1000
    part = await rest.http.get(f"{MODELS}/1/files/weights/model.safetensors", headers={"Range": "bytes=8-15"})
    assert (part.status_code, part.content) == (206, b"global-1")
    archive = await rest.http.get(f"{MODELS}/current/archive")
    assert archive.headers["content-type"] == "application/x-tar"
    with tarfile.open(fileobj=io.BytesIO(archive.content)) as tar:
        content = tar.extractfile("weights/model.safetensors")
        assert content is not None
        assert content.read() == weights.content
    assert (await rest.http.get(f"{MODELS}/1/archive")).content == archive.content
    problem(await rest.http.get(f"{MODELS}/1/files/..%2F..%2Fsecret"), 404, "not-found")
    assert "config.json" in problem(await rest.http.get(f"{MODELS}/1/files/nothing"), 404, "not-found")


async def test_damaged_bytes_are_not_sent(rest: Rest) -> None:
    await rest.federation()
    await rest.publish(1)
    from fedafd.persistence.model_repository import get_version, list_files

    async with rest.context.database.transaction() as session:
        files = await list_files(session, await get_version(session, "trial", 1))
    rest.context.store.put(files[0].key, b"damaged")
    for path in ("archive", f"files/{files[0].path}"):
        assert "backup" in problem(await rest.http.get(f"{MODELS}/1/{path}"), 502, "artifact-corrupt")
    rest.context.store.delete(files[0].key)
    problem(await rest.http.get(f"{MODELS}/1/archive"), 404, "artifact-not-found")


async def test_a_personalized_model_is_for_its_client_and_for_admins(rest: Rest) -> None:
    await rest.federation()
    north, south = await rest.enrol("north"), await rest.enrol("south")
    operator = await rest.key("op", "operator")
    await rest.publish(1)
    await rest.share("north")
    base = "/federations/trial/clients/north/models"
    for path in ("", "/1", "/current", "/current/archive", "/1/files/config.json"):
        for headers in (north, {}):
            assert (await rest.http.get(f"{base}{path}", headers=headers)).status_code == 200, path
        for headers in (south, operator):
            problem(await rest.http.get(f"{base}{path}", headers=headers), 403, "forbidden")
    assert (await rest.http.get(f"{base}/1/files/config.json", headers=north)).content == b'{"name": "of-north"}'
    unshared = await rest.http.get("/federations/trial/clients/south/models/current", headers=south)
    assert "has shared no personalized model" in problem(unshared, 404, "not-found")


async def test_a_folder_gives_no_tickets(rest: Rest) -> None:
    await rest.federation()
    await rest.publish(1)
    assert "archive" in problem(await rest.http.post(f"{MODELS}/1/tickets"), 409, "tickets-unavailable")


async def test_a_bucket_gives_tickets_that_need_no_key(database_url: str, minio: Minio) -> None:
    bucket = f"b{uuid.uuid4().hex}"
    keys: dict[str, Any] = {"access_key": minio.access_key, "secret_key": minio.secret_key}
    S3Store(endpoint=minio.endpoint, bucket=bucket, secure=False, **keys).make_bucket()
    store = StoreSettings(url=f"s3://{bucket}", endpoint=minio.endpoint, secure=False, **keys)
    async with in_process(settings_for(database_url, store)) as rest:
        await rest.federation()
        await rest.publish(1)
        made = await rest.http.post(f"{MODELS}/1/tickets", headers=await rest.key("board", "viewer"))
        assert made.status_code == 200, made.text
        tickets = {ticket["path"]: ticket["url"] for ticket in made.json()["items"]}
        async with httpx.AsyncClient() as anybody:
            fetched = await anybody.get(tickets["weights/model.safetensors"])
            assert fetched.content == b"global-1" * 1000
            forged = tickets["config.json"].replace("X-Amz-Signature=", "X-Amz-Signature=0")
            assert (await anybody.get(forged)).status_code == 403


async def test_nothing_of_a_download_stays_on_the_disk(rest: Rest) -> None:
    await rest.federation()
    await rest.publish(1)
    before = _downloads()
    await rest.http.get(f"{MODELS}/1/archive")
    await rest.http.get(f"{MODELS}/1/files/config.json")
    assert _downloads() <= before


def _downloads() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("fedafd-download-*"))
