"""Wake-ups over Redis: "rows of this federation changed; look again". Losing one costs a poll interval, no more."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable

import redis
import redis.asyncio
from redis.exceptions import RedisError

from fedafd.telemetry.logging import get_logger

__all__ = ["CHANNEL", "WakeupPublisher", "listen_for_wakeups"]

CHANNEL = "fedafd:changed"
_RECONNECT_SECONDS = 1.0
_log = get_logger(__name__)


class WakeupPublisher:
    """Publishes from a thread of its own, so that callers never wait for Redis. A federation waits in line once."""

    def __init__(self, redis_url: str) -> None:
        self._client = redis.Redis.from_url(redis_url, socket_connect_timeout=2, socket_timeout=2)
        self._queue: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._waiting: set[str] = set()
        threading.Thread(target=self._work, name="wakeups", daemon=True).start()

    def publish(self, federation_id: str) -> None:
        """Tell all processes; returns at once; failures are only logged."""
        if federation_id not in self._waiting:
            self._waiting.add(federation_id)
            self._queue.put(federation_id)

    def _work(self) -> None:
        while True:
            federation_id = self._queue.get()
            self._waiting.discard(federation_id)
            try:
                self._client.publish(CHANNEL, federation_id)
            except (RedisError, OSError) as error:
                _log.debug("wakeup.lost", reason=str(error))


async def listen_for_wakeups(redis_url: str, heard: Callable[[str], None]) -> None:
    """Call `heard` with the federation of each wake-up, reconnecting for ever; ends when cancelled."""
    while True:
        client = redis.asyncio.Redis.from_url(redis_url, socket_connect_timeout=2)
        try:
            async with client.pubsub() as subscription:
                await subscription.subscribe(CHANNEL)
                async for message in subscription.listen():
                    if message["type"] == "message":
                        heard(message["data"].decode())
        except (RedisError, OSError) as error:
            _log.debug("wakeups.unavailable", reason=str(error))
        finally:
            await client.aclose()
        await asyncio.sleep(_RECONNECT_SECONDS)
