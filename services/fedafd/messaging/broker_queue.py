"""The broker's one queue, and how many messages wait in it. Without Celery, which not every process may load."""

from __future__ import annotations

import redis.asyncio
from redis.exceptions import RedisError

__all__ = ["QUEUE", "count_waiting"]

QUEUE = "fedafd.distiller"


async def count_waiting(client: redis.asyncio.Redis) -> int | None:
    """Messages that no distiller has taken; None if Redis does not answer."""
    try:
        return int(await client.llen(QUEUE))
    except (RedisError, OSError):
        return None
