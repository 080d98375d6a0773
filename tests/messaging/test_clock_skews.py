"""Whose clock differs is told through Redis, as long as it is told, and nothing depends on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import redis.asyncio

from fedafd.messaging.clock_skews import SkewTeller, read_skews

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.Redis.from_url(redis_url) as opened:
        await opened.delete("fedafd:clock-skews")
        yield opened
        await opened.delete("fedafd:clock-skews")


async def test_what_was_told_lately_is_read_and_nothing_older(redis_url: str, client: redis.asyncio.Redis) -> None:
    SkewTeller(redis_url, "b").tell(-20.04, NOW)
    SkewTeller(redis_url, "a").tell(7200, NOW)
    SkewTeller(redis_url, "ended").tell(3, NOW - timedelta(minutes=1))
    assert await read_skews(client, NOW) == {"a": 7200.0, "b": -20.0}
    assert 0 < await client.ttl("fedafd:clock-skews") <= 30


async def test_without_redis_or_with_something_else_in_it_nothing_is_told(
    redis_url: str, client: redis.asyncio.Redis
) -> None:
    assert await read_skews(None, NOW) == {}
    SkewTeller("redis://127.0.0.1:1/0", "a").tell(5, NOW)
    async with redis.asyncio.Redis.from_url("redis://127.0.0.1:1/0") as away:
        assert await read_skews(away, NOW) == {}
    for value in ("no json", "{}", "[]", '{"seconds": "x", "at": "y"}', "[" * 100_000):
        await client.hset("fedafd:clock-skews", "a", value)
        assert await read_skews(client, NOW) == {}
