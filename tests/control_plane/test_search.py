"""A version is tried over REST: by a viewer, within limits, with an entry in the audit log that does not say what."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from sqlalchemy import update
from tests.control_plane.rest import Rest, in_process, problem, settings_for
from tests.control_plane.trying import own_database, publish_models, query_worker

from fedafd.messaging.queries import QueryTaker
from fedafd.messaging.query_messages import MAX_PICTURE_BYTES
from fedafd.persistence.models import ModelVersionRow, utc_now
from fedafd.storage import StoreSettings

SEARCH = "/federations/trial/models/current/search"
CAPTION = {"caption": "a large red circle", "top_k": 3}


@pytest.fixture
def queries(redis_url: str) -> str:
    return own_database(redis_url, 8)


@pytest.fixture
async def rest(tmp_path: Path, queries: str) -> AsyncIterator[Rest]:
    settings = settings_for(
        f"sqlite:///{tmp_path}/try.db", StoreSettings(url=str(tmp_path / "store")), redis_url=queries
    )
    async with in_process(settings) as rest:
        await publish_models(rest, tmp_path)
        yield rest


async def found(rest: Rest, asked: dict[str, Any], **options: Any) -> Any:
    while (answer := await rest.http.post(SEARCH, json=asked, timeout=60, **options)).status_code == 202:
        assert answer.headers["retry-after"] == "2"
        assert answer.json()["state"] == "preparing"
    assert answer.status_code == 200, answer.text
    return answer.json()


def picture(size: int = 32) -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (size, size), "red").save(made, "PNG")
    return made.getvalue()


def in_base64(content: bytes) -> dict[str, Any]:
    return {"image": base64.b64encode(content).decode()}


async def test_a_viewer_tries_a_version_by_caption_and_by_picture(rest: Rest, tmp_path: Path, queries: str) -> None:
    viewer = await rest.key("board", "viewer")
    with query_worker(queries, tmp_path):
        answer = await found(rest, CAPTION, headers=viewer)
        captions = await found(rest, in_base64(picture()), headers=viewer)
        again = await rest.http.post("/federations/trial/models/1/search", json=CAPTION, timeout=60)
    assert (answer["version"], answer["num_pictures"], answer["num_searched"]) == (2, 16, 16)
    likeness = [hit["likeness"] for hit in answer["hits"]]
    assert len(likeness) == 3 and likeness == sorted(likeness, reverse=True)
    for hit in answer["hits"]:
        assert Image.open(io.BytesIO(base64.b64decode(hit["thumbnail"]))).format == "JPEG"
        assert hit["captions"] and hit["id"]
    assert len(captions["hits"]) == 6
    assert all(len(hit["captions"]) == 1 for hit in captions["hits"])
    assert (again.json()["version"], again.json()["hits"]) == (1, answer["hits"]), "the same weights"
    events = (await rest.http.get("/federations/trial/events?limit=200")).json()["items"]
    reads = [(event["actor"], event["data"]) for event in events if event["kind"] == "model.read"]
    assert ("api-key:board", {"version": 2, "what": "(search)"}) in reads
    assert "circle" not in str(events)


async def test_nobody_without_a_key_of_people_tries_it(rest: Rest) -> None:
    problem(await rest.http.post(SEARCH, json=CAPTION, headers=await rest.enrol("north")), 403, "forbidden")
    problem(await rest.http.post(SEARCH, json=CAPTION, headers={"Authorization": "x"}), 401, "unauthenticated")


async def test_without_a_worker_it_says_what_to_start(rest: Rest) -> None:
    told = problem(await rest.http.post(SEARCH, json=CAPTION), 409, "queries-unavailable")
    assert told == "no query worker is running; start one with `fedafd queries`"
    (found,) = [
        each for each in (await rest.http.get("/status")).json()["findings"] if each["cause"] == "no-query-worker"
    ]
    assert found["remedy"] == "start one: `fedafd queries`"
    page = await rest.http.get(str(rest.http.base_url.join("/metrics")))
    assert 'fedafd_control_plane_queries_total{outcome="unanswered"} 1.0' in page.text


@pytest.mark.parametrize("forged", [b"\xff", b"{}", b'{"state": "ready", "hits": [{}]}'])
async def test_an_answer_that_is_none_is_no_failure_of_ours(rest: Rest, queries: str, forged: bytes) -> None:
    taker = QueryTaker(queries)
    taker.here()

    def answer() -> None:
        taken = taker.take()
        assert taken is not None
        taker.answer(taken[0], forged)

    asked = asyncio.ensure_future(rest.http.post(SEARCH, json=CAPTION, timeout=60))
    await asyncio.to_thread(answer)
    assert "no answer of a query worker" in problem(await asked, 409, "queries-unavailable")


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"caption": " "},
        {"caption": "a", "image": "aaaa"},
        {"image": "no base64!"},
        {"caption": "x" * 1001},
        {"caption": "a\0"},
        {"caption": "a", "top_k": 25},
        {"caption": "a", "top_k": 0},
    ],
)
async def test_what_is_no_query_is_refused(rest: Rest, asked: dict[str, Any]) -> None:
    problem(await rest.http.post(SEARCH, json=asked), 422, "invalid-request")


async def test_half_a_character_is_refused(rest: Rest) -> None:
    content = b'{"caption": "\\ud800"}'
    sent = await rest.http.post(SEARCH, content=content, headers={"Content-Type": "application/json"})
    problem(sent, 422, "invalid-request")


async def test_a_picture_has_a_limit_in_bytes_and_must_be_one(rest: Rest, tmp_path: Path, queries: str) -> None:
    problem(await rest.http.post(SEARCH, json=in_base64(b"x" * (MAX_PICTURE_BYTES + 3))), 422, "invalid-request")
    problem(await rest.http.post(SEARCH, json=in_base64(b"x" * 2 * MAX_PICTURE_BYTES)), 413, "request-too-large")
    with query_worker(queries, tmp_path):
        told = problem(await rest.http.post(SEARCH, json=in_base64(b"x" * 5000)), 422, "invalid-data")
        assert told.startswith("the picture:")
        largest = picture() + b"\0" * (MAX_PICTURE_BYTES - len(picture()))
        assert len((await found(rest, in_base64(largest)))["hits"]) == 6


async def test_a_version_that_is_not_there_or_was_let_go_says_so(rest: Rest) -> None:
    problem(await rest.http.post("/federations/trial/models/7/search", json=CAPTION), 404, "not-found")
    async with rest.context.database.transaction() as session:
        await session.execute(update(ModelVersionRow).values(files_removed_at=utc_now()))
    problem(await rest.http.post(SEARCH, json=CAPTION), 409, "version-removed")


async def test_a_damaged_store_is_told_as_such(rest: Rest, tmp_path: Path, queries: str) -> None:
    for path in (tmp_path / "store").rglob("*"):
        if path.is_file():
            path.write_bytes(b"rot")
    with query_worker(queries, tmp_path):
        answer: httpx.Response = await rest.http.post(SEARCH, json=CAPTION, timeout=60)
    assert "federations/trial/test/" in problem(answer, 502, "artifact-corrupt")
