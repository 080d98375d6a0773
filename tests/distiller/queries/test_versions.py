"""Versions are loaded beside the answers, and no more of them are in memory than a setting says."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from tests.control_plane.trying import own_database
from tests.distiller.queries.trying import MODEL, Trying
from tests.end_to_end.warm import WarmProcess, start_warm

from fedafd.distiller.public_sets import PublicSets
from fedafd.distiller.queries.versions import Versions
from fedafd.domain.errors import ArtifactCorruptError, TooManyRequestsError
from fedafd.domain.hashing import sha256_of
from fedafd.messaging.queries import QueryLine
from fedafd.messaging.query_messages import Query, QueryAnswer, QueryFile

EXTRA = b"{}"
SOON_SECONDS = 10.0
"""Of an answer on a busy machine; a version that is being loaded here takes for ever."""


@pytest.fixture(scope="module")
def trying(tmp_path_factory: pytest.TempPathFactory) -> Trying:
    return Trying(tmp_path_factory.mktemp("trying"))


def another(trying: Trying, name: str) -> tuple[QueryFile, ...]:
    """The files of a version that has one more, so that it is another to the worker."""
    key = f"{MODEL}{name}.json"
    trying.store.put(key, EXTRA)
    return (*trying.files, QueryFile(path=f"{name}.json", key=key, sha256=sha256_of(EXTRA)))


def versions(trying: Trying, folder: Path, **given: Any) -> Versions:
    sets = PublicSets(trying.store, folder, limit_bytes=10**8)
    values: dict[str, Any] = {"device": "cpu", "most": 2, "most_pictures": 50, "wait_seconds": 30}
    return Versions(trying.store, folder / "versions", sets, **(values | given))


def test_no_more_models_are_in_memory_than_was_said(trying: Trying, tmp_path: Path) -> None:
    held = versions(trying, tmp_path)
    models: list[weakref.ref[Any]] = []
    for name in ("a", "b", "c"):
        opened = held.open(another(trying, name), trying.public_set_sha256)
        assert opened is not None
        models.append(weakref.ref(opened.model))
        del opened
        gc.collect()
        assert sum(each() is not None for each in models) <= 2
    assert models[0]() is None, "the one that was asked longest ago"
    held.close()


def test_a_version_whose_embeddings_are_being_made_is_not_let_go(trying: Trying, tmp_path: Path) -> None:
    busy: set[str] = set()
    held = versions(trying, tmp_path, is_busy=busy.__contains__)
    opened = [held.open(another(trying, name), trying.public_set_sha256) for name in ("a", "b")]
    keys = [each.key for each in opened if each is not None]
    busy.update(keys)
    with pytest.raises(TooManyRequestsError, match="FEDAFD_QUERIES_VERSIONS_HELD") as refused:
        held.open(another(trying, "c"), trying.public_set_sha256)
    assert refused.value.data["retry_after_seconds"] > 0
    busy.remove(keys[1])
    assert held.open(another(trying, "c"), trying.public_set_sha256) is not None
    assert held.open(another(trying, "a"), trying.public_set_sha256) is opened[0]
    held.close()


def test_what_was_wrong_with_a_version_is_told_each_time_that_it_was_loaded(trying: Trying, tmp_path: Path) -> None:
    held = versions(trying, tmp_path)
    wrong = tuple(file.model_copy(update={"sha256": "0" * 64}) for file in trying.files)
    for _ in range(2):
        with pytest.raises(ArtifactCorruptError):
            held.open(wrong, trying.public_set_sha256)
    assert held.open(trying.files, trying.public_set_sha256) is not None
    held.close()


@dataclass
class Worker:
    """The real process, asked over Redis."""

    process: WarmProcess
    url: str
    log: Path

    def ask(self, query: Query) -> QueryAnswer:
        async def asked() -> bytes:
            async with redis.asyncio.Redis.from_url(self.url) as client:
                return await QueryLine(client).ask(query.model_dump_json().encode())

        return QueryAnswer.model_validate_json(asyncio.run(asked()))

    def until(self, query: Query, is_it: Callable[[QueryAnswer], bool]) -> QueryAnswer:
        end = time.monotonic() + 60
        while not is_it(answer := self.ask(query)):
            assert time.monotonic() < end, answer
        return answer


@pytest.fixture
def worker(trying: Trying, tmp_path: Path, redis_url: str) -> Iterator[Worker]:
    url, log = own_database(redis_url, 12), tmp_path / "queries.log"
    settings = {
        "REDIS_URL": url, "STORE__URL": str(trying.store.root), "CACHE_DIR": str(tmp_path / "cache"),
        "VERSIONS_HELD": "2",
    }  # fmt: skip
    environment = dict(os.environ) | {f"FEDAFD_QUERIES_{name}": value for name, value in settings.items()}
    process = start_warm([sys.executable, "-m", "fedafd.distiller.queries.worker"], environment, log)
    assert process is not None
    client = redis.Redis.from_url(url)
    while not client.exists("fedafd:query-workers"):
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    yield Worker(process, url, log)
    process.kill()
    process.wait(30)


def is_ready(answer: QueryAnswer) -> bool:
    return answer.state == "ready"


@pytest.mark.timeout(120)
def test_the_process_answers_for_loaded_versions_while_it_loads_one(trying: Trying, worker: Worker) -> None:
    first = trying.query(caption="a large red circle")
    worker.until(first, is_ready)
    files = another(trying, "slow")
    place = trying.store.root / files[-1].key
    place.unlink()
    os.mkfifo(place)  # whoever reads it waits for a writer
    slow = trying.query(caption="a large red circle", files=files)
    told = worker.ask(slow)
    assert (told.state, told.step, told.total) == ("preparing", "loading", 0)
    for _ in range(3):
        began = time.monotonic()
        assert is_ready(worker.ask(first))
        assert time.monotonic() - began < SOON_SECONDS
        assert worker.ask(slow).step == "loading"
    _, lost = place.rename(place.with_suffix(".fifo")), place.with_suffix(".fifo")
    trying.store.put(files[-1].key, EXTRA)
    os.close(os.open(lost, os.O_WRONLY))  # its reader goes on, and finds no file
    failed = worker.until(slow, lambda answer: answer.step != "loading")
    assert (failed.state, failed.code) == ("refused", "storage"), "told, and then it is tried again"
    assert len(worker.until(slow, is_ready).hits) == 4


@pytest.mark.timeout(120)
def test_the_process_ends_in_time_while_it_loads_from_a_store_that_does_not_answer(
    trying: Trying, worker: Worker
) -> None:
    files = another(trying, "hangs")
    (trying.store.root / files[-1].key).unlink()
    os.mkfifo(trying.store.root / files[-1].key)
    assert worker.ask(trying.query(caption="a circle", files=files)).step == "loading"
    worker.process.terminate()
    assert worker.process.wait(30) == 4
    assert "process.ended_hard" in worker.log.read_text()
