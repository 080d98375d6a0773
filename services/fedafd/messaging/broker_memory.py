"""Notices that Redis forgot: it was flushed, or came back without its data, and every message in it is gone.

A mark without an end of life lies in Redis. As long as it is there, so is what was sent. Once it is missing, the
sender sends again what it must, and then sets the mark: a crash in between sends twice, which does no harm.
"""

from __future__ import annotations

import redis
from redis.exceptions import RedisError

from fedafd.domain.errors import StorageUnavailableError

__all__ = ["MARK_KEY", "BrokerMemory"]

MARK_KEY = "fedafd:broker-mark"


class BrokerMemory:
    """The mark in one Redis. Blocking; raises StorageUnavailableError when Redis cannot be reached."""

    def __init__(self, redis_url: str) -> None:
        self._client = redis.Redis.from_url(redis_url, socket_connect_timeout=2, socket_timeout=2)

    def intact(self) -> bool:
        """True if nothing was lost since `remember`; False also for a Redis that is new."""
        try:
            return bool(self._client.exists(MARK_KEY))
        except (RedisError, OSError) as error:
            raise StorageUnavailableError(f"Redis cannot be reached: {error}") from error

    def remember(self) -> None:
        """Set the mark: from here on what is sent is sent."""
        try:
            self._client.set(MARK_KEY, "1")
        except (RedisError, OSError) as error:
            raise StorageUnavailableError(f"Redis cannot be reached: {error}") from error
