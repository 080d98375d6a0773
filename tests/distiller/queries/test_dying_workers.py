"""Of two real query workers one is frozen, then killed: who asks has the other's answer, not half a minute's wait."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

import pytest
import redis
import redis.asyncio
from tests.control_plane.trying import own_database
from tests.end_to_end.warm import WarmProcess, start_warm
from tests.servers import wait_until

from fedafd.messaging.queries import QueryLine


@pytest.fixture
def url(redis_url: str) -> str:
    return own_database(redis_url, 9)


@pytest.fixture
def workers(url: str, tmp_path: Path) -> Iterator[list[WarmProcess]]:
    """Two, in the order in which they wait for queries."""
    client = redis.Redis.from_url(url)
    settings = {"FEDAFD_QUERIES_REDIS_URL": url, "FEDAFD_QUERIES_STORE__URL": str(tmp_path / "store")}
    command = [sys.executable, "-m", "fedafd.distiller.queries.worker"]
    with ExitStack() as stack:
        started: list[WarmProcess] = []
        for number in (1, 2):
            worker = start_warm(command, os.environ | settings, tmp_path / f"{number}.log")
            assert worker is not None
            stack.callback(worker.kill)
            started.append(worker)
            wait_until(lambda: len(client.keys("fedafd:query-worker:*")) == len(started), "a worker", seconds=60)
        yield started


async def test_a_frozen_and_a_dead_worker_cost_seconds(url: str, workers: list[WarmProcess]) -> None:
    line = QueryLine(redis.asyncio.Redis.from_url(url))
    for number in (signal.SIGSTOP, signal.SIGKILL):
        workers[0].send_signal(number)
        begun = monotonic()
        answers = await asyncio.gather(*(line.ask(b"no query of this version") for _ in range(3)))
        assert all(b"same version of both" in answer for answer in answers)
        assert monotonic() - begun < 15
