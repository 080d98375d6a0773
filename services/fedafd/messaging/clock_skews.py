"""Whose machine's clock differs from the database's, told through Redis to whoever asks what is wrong.

One hash, a field for each process, JSON `{"seconds": how far it is ahead, "at": ISO time in UTC}`. A process tells as
long as its clock differs; what is old does not count. Nothing is decided by it.
"""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime, timedelta
from math import isfinite

import redis
import redis.asyncio
from redis.exceptions import RedisError

from fedafd.domain.plain_text import plain_text

__all__ = ["SkewTeller", "read_skews"]

_KEY = "fedafd:clock-skews"
_SECONDS = 30
"""How long what was told counts; it is told again every few seconds."""


class SkewTeller:
    """One process's. `name` is what an operator knows it by."""

    def __init__(self, redis_url: str, name: str) -> None:
        self._client = redis.Redis.from_url(redis_url, socket_connect_timeout=2, socket_timeout=2)
        self._name = name

    def tell(self, seconds: float, at: datetime) -> None:
        """This machine's clock is `seconds` ahead of the database's, behind it if negative; at its time `at`."""
        with suppress(RedisError), self._client.pipeline(transaction=False) as pipe:
            pipe.hset(_KEY, self._name, json.dumps({"seconds": round(seconds, 1), "at": at.isoformat()}))
            pipe.expire(_KEY, _SECONDS)
            pipe.execute()


async def read_skews(client: redis.asyncio.Redis | None, now: datetime) -> dict[str, float]:
    """By process how many seconds its clock is ahead; none where Redis is away or holds something else."""
    if client is None:
        return {}
    with suppress(RedisError, ValueError, KeyError, TypeError, RecursionError):
        skews = {
            (name.decode() if isinstance(name, bytes) else name): json.loads(value)
            for name, value in (await client.hgetall(_KEY)).items()
        }
        recent = timedelta(seconds=_SECONDS)
        return {
            plain_text(name): float(skew["seconds"])
            for name, skew in sorted(skews.items())
            if now - datetime.fromisoformat(skew["at"]) < recent and isfinite(float(skew["seconds"]))
        }
    return {}
