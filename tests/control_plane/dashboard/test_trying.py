"""The page that tries a version: results, what is wrong with a question, and no worker, without a browser."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from sqlalchemy import update
from tests.control_plane.dashboard.browsing import Visitor, visitor
from tests.control_plane.rest import Rest, in_process, settings_for
from tests.control_plane.trying import own_database, publish_models, query_worker

from fedafd.messaging.query_messages import MAX_PICTURE_BYTES
from fedafd.persistence.models import ModelVersionRow, utc_now
from fedafd.storage import StoreSettings

TRY = "/federations/trial/try"


@pytest.fixture
def queries(redis_url: str) -> str:
    return own_database(redis_url, 9)


@pytest.fixture
async def rest(tmp_path: Path, queries: str) -> AsyncIterator[Rest]:
    settings = settings_for(
        f"sqlite:///{tmp_path}/try.db", StoreSettings(url=str(tmp_path / "store")), redis_url=queries
    )
    async with in_process(settings) as rest:
        yield rest


def png() -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(made, "PNG")
    return made.getvalue()


async def ask(visit: Visitor, picture: bytes | None = None, **fields: str) -> httpx.Response:
    """The form as a browser sends it, again while the public set is prepared."""
    sent: dict[str, Any] = {"token": await visit.token(), "one": "2", "other": "", "caption": ""} | fields
    # A browser sends a file field without a name where none was chosen.
    files = {"picture": ("photo.png", picture or b"", "image/png")}
    while "data-preparing" in (answer := await visit.http.post(TRY, data=sent, files=files, timeout=60)).text:
        assert "embeds the public set" in answer.text
    return answer


async def test_a_viewer_sees_pictures_and_captions_of_two_versions(rest: Rest, tmp_path: Path, queries: str) -> None:
    await publish_models(rest, tmp_path)
    visit = await visitor(rest, "viewer")
    with query_worker(queries, tmp_path):
        assert "Nothing was asked yet." in await visit.page(TRY)
        pictures = (await ask(visit, by="caption", caption="a <b>red</b> circle", other="1")).text
        captions = (await ask(visit, png(), by="picture")).text
    assert "Pictures for “a &lt;b&gt;red&lt;/b&gt; circle”" in pictures
    assert [int(number) for number in re.findall(r">Version (\d)</a>", pictures)] == [2, 1]
    thumbnails = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', pictures)
    assert len(thumbnails) == 18
    assert Image.open(io.BytesIO(base64.b64decode(html.unescape(thumbnails[0])))).size == (32, 32)
    assert captions.count("<li>") == 12
    assert "Captions for your picture" in captions
    events = (await rest.http.get("/federations/trial/events?limit=200")).text
    assert "(search)" in events and "circle" not in events


async def test_without_a_worker_the_page_says_what_to_start(rest: Rest, tmp_path: Path) -> None:
    await publish_models(rest, tmp_path)
    visit = await visitor(rest)
    told = "No query worker is running; start one with <code>fedafd queries</code>."
    assert told in await visit.page(TRY)
    answer = await ask(visit, by="caption", caption="a red circle")
    assert answer.status_code == 200 and told in answer.text


async def test_before_the_first_version_there_is_nothing_to_try(rest: Rest) -> None:
    await rest.federation()
    text = await (await visitor(rest)).page(TRY)
    assert "the first completed round makes one" in text
    assert '<form id="try"' not in text


@pytest.mark.parametrize(
    ("picture", "fields", "told"),
    [
        (None, {"by": "caption", "caption": " "}, "Type a caption of 1 to 1000 characters."),
        (None, {"by": "caption", "caption": "x" * 1001}, "Type a caption of 1 to 1000 characters."),
        (None, {"by": "picture"}, "Choose a picture."),
        (b"x" * (MAX_PICTURE_BYTES + 1), {"by": "picture"}, "larger than 5 MiB"),
        (None, {"by": "magic"}, "Ask by a caption or by a picture."),
        (None, {"by": "caption", "caption": "a", "one": ""}, "Choose a version."),
        (None, {"by": "caption", "caption": "a", "one": "-1"}, "is no number of a version"),
    ],
)
async def test_what_is_wrong_is_said_on_the_page(
    rest: Rest, tmp_path: Path, picture: bytes | None, fields: dict[str, str], told: str
) -> None:
    await publish_models(rest, tmp_path)
    answer = await ask(await visitor(rest), picture, **fields)
    assert answer.status_code == 422
    assert told in answer.text


async def test_a_version_whose_folder_went_is_not_offered_and_says_why(rest: Rest, tmp_path: Path) -> None:
    await publish_models(rest, tmp_path)
    async with rest.context.database.transaction() as session:
        gone = update(ModelVersionRow).where(ModelVersionRow.version == 1).values(files_removed_at=utc_now())
        await session.execute(gone)
    visit = await visitor(rest)
    assert '<option value="1"' not in await visit.page(f"{TRY}?one=1")
    answer = await ask(visit, by="caption", caption="a red circle", one="1")
    assert "the folder of version 1 was let go" in answer.text


async def test_a_form_of_somebody_else_is_refused(rest: Rest, tmp_path: Path) -> None:
    await publish_models(rest, tmp_path)
    visit = await visitor(rest)
    fields = {"token": "0" * 64, "one": "2", "by": "caption", "caption": "a"}
    assert (await visit.http.post(TRY, data=fields)).status_code == 403
    too_long = {"picture": ("p.png", b"x" * (2 * MAX_PICTURE_BYTES))}
    assert (await visit.http.post(TRY, data=fields, files=too_long)).status_code == 413
