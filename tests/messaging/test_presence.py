"""Presence in Redis: written without waiting, read by others, forgotten by itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import redis
import redis.asyncio
from tests.servers import free_port, wait_until

from fedafd.messaging.presence import Presence, PresenceWriter, presence_key, read_presence


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.Redis.from_url(redis_url) as opened:
        await opened.flushdb()
        yield opened


async def until_seen(client: redis.asyncio.Redis, name: str) -> Presence:
    for _ in range(400):
        if found := (await read_presence(client, "f", [name])).get(name):
            return found
        await asyncio.sleep(0.025)
    raise AssertionError(f"{name} was never seen")


async def test_what_is_written_is_read_by_another(redis_url: str, client: redis.asyncio.Redis) -> None:
    PresenceWriter(redis_url).seen("f", "north", "epoch 2 of 5")
    found = await until_seen(client, "north")
    assert found.activity == "epoch 2 of 5"
    assert abs(datetime.now(UTC) - found.at) < timedelta(seconds=30)
    assert await read_presence(client, "f", ["north", "south"]) == {"north": found}
    assert await read_presence(client, "other", ["north"]) == {}


async def test_the_key_and_its_json_are_what_the_documentation_says(
    redis_url: str, client: redis.asyncio.Redis
) -> None:
    PresenceWriter(redis_url).seen("f", "north", "waiting for a task")
    await until_seen(client, "north")
    assert presence_key("f", "north") == "fedafd:presence:f:north"
    value = json.loads(await client.get("fedafd:presence:f:north") or "")
    assert set(value) == {"at", "activity"}
    assert datetime.fromisoformat(value["at"]).tzinfo is not None
    assert 0 < await client.pttl("fedafd:presence:f:north") <= 60_000


async def test_an_agent_that_stops_calling_is_forgotten(redis_url: str, client: redis.asyncio.Redis) -> None:
    PresenceWriter(redis_url, lifetime_seconds=0.3).seen("f", "north", "training")
    await until_seen(client, "north")
    await asyncio.sleep(0.6)
    assert await read_presence(client, "f", ["north"]) == {}


async def test_the_same_again_is_not_written_again_but_another_activity_is(
    redis_url: str, client: redis.asyncio.Redis
) -> None:
    writer = PresenceWriter(redis_url)
    writer.seen("f", "north", "training")
    first = await until_seen(client, "north")
    writer.seen("f", "north", "training")
    writer.seen("f", "south", "training")
    await until_seen(client, "south")
    assert (await read_presence(client, "f", ["north"]))["north"] == first
    writer.seen("f", "north", "delivering")
    for _ in range(400):
        if (await read_presence(client, "f", ["north"]))["north"].activity == "delivering":
            return
        await asyncio.sleep(0.025)
    raise AssertionError("the new activity was never written")


async def test_without_redis_nobody_is_known_to_be_there_and_nobody_waits() -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    writer = PresenceWriter(url)
    started = asyncio.get_running_loop().time()
    for number in range(1000):
        writer.seen("f", f"site-{number}", "training")
    assert asyncio.get_running_loop().time() - started < 2
    async with redis.asyncio.Redis.from_url(url, socket_connect_timeout=1) as client:
        assert await read_presence(client, "f", ["site-1"]) == {}


def test_presence_goes_on_when_redis_comes_back(tmp_path: object, redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    writer = PresenceWriter(redis_url)
    writer.seen("f", "before", "training")
    wait_until(lambda: bool(client.exists("fedafd:presence:f:before")), "the first presence")
    client.client_kill_filter(_type="normal", skipme=True)
    for number in range(3):
        writer.seen("f", "after", f"step {number}")
    wait_until(lambda: bool(client.exists("fedafd:presence:f:after")) or not writer.seen("f", "after", "x"), "it")  # type: ignore[func-returns-value]


@pytest.mark.parametrize(
    "forged",
    [
        b"\xff",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"at": 5, "activity": ""}',
        b'{"at": "yesterday", "activity": ""}',
        b'{"at": "2026-01-01T00:00:00", "activity": "without a zone"}',
    ],
)
async def test_what_no_writer_of_ours_wrote_is_nobody(client: redis.asyncio.Redis, forged: bytes) -> None:
    await client.set(presence_key("f", "north"), forged)
    assert await read_presence(client, "f", ["north", "south"]) == {}


async def test_an_activity_is_short_and_holds_nothing_that_a_terminal_obeys(client: redis.asyncio.Redis) -> None:
    value = {"at": datetime.now(UTC).isoformat(), "activity": "\x1b[2J" + "x" * 10_000}
    await client.set(presence_key("f", "north"), json.dumps(value))
    activity = (await read_presence(client, "f", ["north"]))["north"].activity
    assert len(activity) <= 200 and "\x1b" not in activity
