"""Wake-ups: quick when Redis is there, never missed for good when it is not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis
from tests.servers import free_port, redis_server

from fedafd.messaging.wakeups import CHANNEL, WakeupPublisher, listen_for_wakeups


@asynccontextmanager
async def listening(url: str, heard: list[str]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(listen_for_wakeups(url, lambda change: heard.append(change.federation)))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until_heard(publisher: WakeupPublisher, heard: list[str], federation: str) -> None:
    """Publish until it is heard: a wake-up may be lost, and is not missed then."""
    for _ in range(600):
        publisher.publish(federation)
        if federation in heard:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{federation} was never heard")


async def test_a_wake_up_reaches_another_process_listener(redis_url: str) -> None:
    heard: list[str] = []
    async with listening(redis_url, heard):
        await until_heard(WakeupPublisher(redis_url), heard, "trial")


@pytest.mark.parametrize(
    "forged",
    [
        b"\xff\xfe",
        b"[" * 100_000,
        b"null",
        b'{"federation": [1], "clients": [{}, []], "rounds": 5, "origin": {}}',
        b'{"federation": "x", "clients": 7, "rounds": 5, "origin": 5}',
    ],
)
async def test_what_is_no_message_of_ours_does_not_end_the_listening(redis_url: str, forged: bytes) -> None:
    heard: list[str] = []
    async with listening(redis_url, heard):
        await until_heard(WakeupPublisher(redis_url), heard, "before")
        redis.Redis.from_url(redis_url).publish(CHANNEL, forged)
        await until_heard(WakeupPublisher(redis_url), heard, "after")


async def test_publishing_without_redis_neither_waits_nor_raises() -> None:
    publisher = WakeupPublisher(f"redis://127.0.0.1:{free_port()}/0")
    started = asyncio.get_running_loop().time()
    for number in range(1000):
        publisher.publish(f"federation-{number}")
    assert asyncio.get_running_loop().time() - started < 2


async def test_a_listener_outlives_a_restart_of_redis(tmp_path: Path) -> None:
    heard: list[str] = []
    with redis_server(tmp_path) as url:
        port = int(url.split(":")[2].split("/")[0])
        publisher = WakeupPublisher(url)
        async with listening(url, heard):
            await until_heard(publisher, heard, "before")
            redis.Redis.from_url(url).shutdown(nosave=True, now=True)
            await asyncio.sleep(0.2)
            with redis_server(tmp_path, port=port):
                await until_heard(publisher, heard, "after")
