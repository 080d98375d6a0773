"""How many messages wait in the broker."""

from __future__ import annotations

import redis
from redis.exceptions import RedisError

from fedafd.messaging.broker_queue import QUEUE

__all__ = ["QueueDepth"]


class QueueDepth:
    """Looks at one Redis. Blocking, for at most about 2 s."""

    def __init__(self, redis_url: str) -> None:
        self._client = redis.Redis.from_url(redis_url, socket_connect_timeout=2, socket_timeout=2)

    def look(self) -> int | None:
        """Messages that no distiller has taken; None if Redis does not answer."""
        try:
            return self._client.llen(QUEUE)
        except (RedisError, OSError):
            return None
