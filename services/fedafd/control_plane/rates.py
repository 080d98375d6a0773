"""How often something happened lately, by name: all replicas count together in Redis, each for itself while it is away.

A minute slides: of the minute before, the part counts that lies within the last 60 seconds, as if it had been spread
evenly (https://blog.cloudflare.com/counting-things-a-lot-of-different-things). What is remembered here is bounded.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from typing import NamedTuple

import redis.asyncio
from redis.exceptions import RedisError

from fedafd.domain.secrets import hash_secret
from fedafd.telemetry.logging import get_logger

__all__ = ["MOST_REMEMBERED", "Rates", "Seen"]

MOST_REMEMBERED = 10_000
_WINDOW = 60
_REDIS_SECONDS = 0.5
"""Redis answers in less than a millisecond, or it is away."""
_AWAY_SECONDS = 5.0
"""How long Redis is not asked again after it did not answer."""
_PREFIX = "fedafd:rates"
_log = get_logger(__name__)


class Seen(NamedTuple):
    """How often it happened in the minute before and in this one, of which `part` has passed."""

    before: int
    now: int
    part: float

    @property
    def rate(self) -> float:
        """In the last 60 seconds."""
        return self.before * (1 - self.part) + self.now

    def wait_seconds(self, per_minute: int) -> int:
        """After how long it may happen once more; 0 for at once."""
        if self.rate < per_minute:
            return 0
        if self.now < per_minute:
            gone = 1 - (per_minute - self.now) / self.before
            return max(1, math.ceil((gone - self.part) * _WINDOW))
        gone = 1 - per_minute / self.now
        return max(1, math.ceil((1 - self.part + gone) * _WINDOW))


class Rates:
    """Counts by name."""

    def __init__(self, client: redis.asyncio.Redis | None = None) -> None:
        self._redis = client
        self._asked_again_at = 0.0
        self._here: OrderedDict[str, tuple[int, int, int]] = OrderedDict()
        """Minute, count of the one before, count of this one."""

    async def seen(self, name: str) -> Seen:
        """How often it happened lately."""
        return await self._add(name, 0)

    async def take(self, name: str, per_minute: int) -> int:
        """It happens once more; or, where that is too often, the seconds after which it may, and it is not counted."""
        after = await self._add(name, 1)
        wait = after._replace(now=after.now - 1).wait_seconds(per_minute)
        if wait:
            await self._add(name, -1)
        return wait

    async def _add(self, name: str, number: int) -> Seen:
        now = time.time()
        minute, part = int(now // _WINDOW), now % _WINDOW / _WINDOW
        if self._redis is not None and time.monotonic() >= self._asked_again_at:
            try:
                async with asyncio.timeout(_REDIS_SECONDS):
                    return await self._add_in_redis(self._redis, name, number, minute, part)
            except (RedisError, OSError, TimeoutError) as error:
                self._asked_again_at = time.monotonic() + _AWAY_SECONDS
                _log.warning("rates.counted_here", reason=str(error) or type(error).__name__)
        return self._add_here(name, number, minute, part)

    async def _add_in_redis(
        self, client: redis.asyncio.Redis, name: str, number: int, minute: int, part: float
    ) -> Seen:
        # Names hold what strangers send.
        key = f"{_PREFIX}:{hash_secret(name)[:32]}"
        async with client.pipeline(transaction=False) as pipe:
            pipe.get(f"{key}:{minute - 1}")
            if number:
                pipe.incrby(f"{key}:{minute}", number)
                pipe.expire(f"{key}:{minute}", 2 * _WINDOW)
            else:
                pipe.get(f"{key}:{minute}")
            before, counted, *_ = await pipe.execute()
        return Seen(int(before or 0), int(counted or 0), part)

    def _add_here(self, name: str, number: int, minute: int, part: float) -> Seen:
        at, before, counted = self._here.get(name, (minute, 0, 0))
        if at != minute:
            before, counted = (counted if at == minute - 1 else 0), 0
        counted += number
        self._here[name] = (minute, before, counted)
        self._here.move_to_end(name)
        while len(self._here) > MOST_REMEMBERED:
            self._here.popitem(last=False)
        return Seen(before, counted, part)
