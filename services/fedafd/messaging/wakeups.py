"""Wake-ups over Redis: "rows of this federation changed; look again". Losing one costs a slow look, no more.

A message says whom the change concerns, so that nobody else looks: clients, the coordinator, and always those that
watch the federation. One that is only a federation's name (as the control plane sends it) concerns everybody.
"""

from __future__ import annotations

import asyncio
import json
import queue
import threading
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass

import redis
import redis.asyncio
from redis.exceptions import RedisError

from fedafd.telemetry.logging import get_logger

__all__ = ["CHANNEL", "Change", "WakeupPublisher", "listen_for_wakeups"]

CHANNEL = "fedafd:changed"
_RECONNECT_SECONDS = 1.0
_log = get_logger(__name__)


@dataclass(frozen=True)
class Change:
    """What changed: a federation's rows, and whom that concerns beside those that watch it."""

    federation: str
    clients: frozenset[str] | None = None
    """Ids of clients whose task may be another now; None: any client's, its credential included."""
    rounds: bool = True
    """Whether the coordinator may have something to do."""

    def joined(self, other: Change) -> Change:
        """Both changes of one federation as one."""
        either = self.clients is None or other.clients is None
        clients = None if either else (self.clients or frozenset()) | (other.clients or frozenset())
        return Change(self.federation, clients, self.rounds or other.rounds)

    def encoded(self, origin: str) -> str:
        """As a message."""
        if self == Change(self.federation) and not origin:
            return self.federation
        clients = None if self.clients is None else sorted(self.clients)
        return json.dumps({"federation": self.federation, "clients": clients, "rounds": self.rounds, "origin": origin})


class WakeupPublisher:
    """Publishes from a thread of its own, so that callers never wait for Redis. A federation waits in line once."""

    def __init__(self, redis_url: str) -> None:
        self._client = redis.Redis.from_url(redis_url, socket_connect_timeout=2, socket_timeout=2)
        self._queue: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._waiting: dict[str, Change] = {}
        self._lock = threading.Lock()
        self.origin = uuid.uuid4().hex
        """Names this publisher in its messages, so that its own process need not hear them."""
        threading.Thread(target=self._work, name="wakeups", daemon=True).start()

    def publish(self, federation_id: str, clients: Collection[str] | None = None, rounds: bool = True) -> None:
        """Tell all processes; returns at once; failures are only logged."""
        change = Change(federation_id, None if clients is None else frozenset(clients), rounds)
        with self._lock:
            waiting = self._waiting.get(federation_id)
            self._waiting[federation_id] = change if waiting is None else waiting.joined(change)
        if waiting is None:
            self._queue.put(federation_id)

    def _work(self) -> None:
        while True:
            federation_id = self._queue.get()
            with self._lock:
                change = self._waiting.pop(federation_id)
            try:
                self._client.publish(CHANNEL, change.encoded(self.origin))
            except (RedisError, OSError) as error:
                _log.debug("wakeup.lost", reason=str(error))


async def listen_for_wakeups(
    redis_url: str,
    heard: Callable[[Change], None],
    *,
    but: str = "",
    connected: Callable[[], None] = lambda: None,
) -> None:
    """Call `heard` with each change, reconnecting for ever; ends when cancelled.

    What the publisher of origin `but` sent is left out. `connected` is called after each (re)connection: what was sent
    before it was not heard.
    """
    while True:
        client = redis.asyncio.Redis.from_url(redis_url, socket_connect_timeout=2)
        try:
            async with client.pubsub() as subscription:
                await subscription.subscribe(CHANNEL)
                async for message in subscription.listen():
                    if message["type"] == "subscribe":
                        connected()
                    elif message["type"] == "message":
                        origin, change = _decoded(message["data"])
                        if change is not None and (not but or origin != but):
                            heard(change)
        except (RedisError, OSError) as error:
            _log.debug("wakeups.unavailable", reason=str(error))
        finally:
            await client.aclose()
        await asyncio.sleep(_RECONNECT_SECONDS)


def _decoded(message: bytes) -> tuple[str, Change | None]:
    """Origin and change of a message. What is no message of this version is the name of a federation, what is no text
    is nobody's: whoever can write to Redis, the listener goes on."""
    try:
        text = message.decode()
    except UnicodeDecodeError:
        return "", None
    try:
        values = json.loads(text)
        clients = None if values["clients"] is None else frozenset(map(str, values["clients"]))
        return str(values["origin"]), Change(str(values["federation"]), clients, bool(values["rounds"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return "", Change(text)
