"""`fedafd model search` waits until a version is prepared, prints what matches best, and says why it cannot."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from PIL import Image
from tests.control_plane.rest import KEY, Rest, listening, settings_for
from tests.control_plane.trying import own_database, publish_models, query_worker
from typer.testing import CliRunner, Result

from fedafd.cli.main import app
from fedafd.domain.errors import DataError, FedafdError
from fedafd.messaging.query_messages import MAX_PICTURE_BYTES
from fedafd.storage import StoreSettings


@pytest.fixture
def queries(redis_url: str) -> str:
    return own_database(redis_url, 11)


@pytest.fixture
async def live(tmp_path: Path, queries: str) -> AsyncIterator[Rest]:
    store = StoreSettings(url=str(tmp_path / "store"))
    settings = settings_for(f"sqlite:///{tmp_path}/live.db", store, redis_url=queries)
    async with listening(settings) as rest:
        await publish_models(rest, tmp_path)
        yield rest


async def run(live: Rest, *arguments: str) -> Result:
    command = ["model", "search", "--url", live.url, "--api-key", KEY, "-F", "trial", *arguments]
    return await asyncio.to_thread(CliRunner().invoke, app, command)


async def test_pictures_and_captions_are_found(live: Rest, tmp_path: Path, queries: str) -> None:
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    with query_worker(queries, tmp_path):
        table = await run(live, "a large red circle", "--top-k", "3")
        answer = await run(live, "--image", str(tmp_path / "red.png"), "--version", "1", "--output", "json")
    assert table.exit_code == 0, (table.output, table.exception)
    heading, *rows = [line for line in table.stdout.splitlines() if line.strip()]
    assert heading.split() == ["LIKENESS", "PICTURE", "SPLIT", "CAPTION"]
    assert [float(row.split()[0]) for row in rows] == sorted((float(row.split()[0]) for row in rows), reverse=True)
    assert len(rows) == 3
    found = json.loads(answer.stdout)
    assert (found["version"], found["state"], len(found["hits"])) == (1, "ready", 6)


async def test_what_cannot_be_is_said(live: Rest, tmp_path: Path) -> None:
    missing = await run(live, "a red circle")
    assert isinstance(missing.exception, FedafdError)
    assert str(missing.exception) == "no query worker is running; start one with `fedafd queries`"
    for arguments in ((), ("a red circle", "--image", str(tmp_path / "red.png"))):
        wrong = await run(live, *arguments)
        assert wrong.exit_code == 2
        assert "give either a caption or --image" in wrong.output
    (tmp_path / "large.png").write_bytes(b"x" * (MAX_PICTURE_BYTES + 1))
    large = await run(live, "--image", str(tmp_path / "large.png"))
    assert isinstance(large.exception, DataError)
    assert "large.png: has 5.0 MiB; a picture may have 5: make it smaller" in str(large.exception)
    absent = await run(live, "--image", str(tmp_path / "absent.png"))
    assert isinstance(absent.exception, FileNotFoundError), "main() names the file"
