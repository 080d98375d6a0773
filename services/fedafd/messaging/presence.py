"""Who is there: the aggregator notes in Redis when a client's agent last called, and what it is doing.

One key per client, `fedafd:presence:{federation}:{client}`, JSON `{"at": ISO time in UTC, "activity": text}`, which
Redis forgets after PRESENCE_SECONDS. Presence is a hint for people: nothing is decided by it, and losing Redis loses
nothing but the hint.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic

import redis
import redis.asyncio
from redis.exceptions import RedisError

from fedafd.domain.plain_text import plain_text
from fedafd.telemetry.logging import get_logger

__all__ = ["PRESENCE_SECONDS", "Presence", "PresenceWriter", "presence_key", "read_presence"]

PRESENCE_SECONDS = 60
"""After how long without a call an agent counts as away; above its longest pause between two calls, 30 s."""

_REPEAT_SECONDS = 5.0
_ACTIVITY_CHARACTERS = 200
_log = get_logger(__name__)


@dataclass(frozen=True)
class Presence:
    """An agent that is there: when it last called (UTC), and what it was doing."""

    at: datetime
    activity: str


def presence_key(federation: str, client: str) -> str:
    """The Redis key of one client; `federation` is the federation's id, `client` the client's name."""
    return f"fedafd:presence:{federation}:{client}"


class PresenceWriter:
    """Writes from a thread of its own, so that callers never wait for Redis.

    A client that does the same as before is written again only after 5 s, and while Redis is slow only the latest of
    each client waits in line.
    """

    def __init__(self, redis_url: str, *, lifetime_seconds: float = PRESENCE_SECONDS) -> None:
        self._client = redis.Redis.from_url(redis_url, socket_connect_timeout=2, socket_timeout=2)
        self._lifetime_ms = int(lifetime_seconds * 1000)
        self._waiting: dict[str, str] = {}
        self._written: dict[str, tuple[str, float]] = {}
        self._changed = threading.Condition()
        threading.Thread(target=self._work, name="presence", daemon=True).start()

    def seen(self, federation: str, client: str, activity: str) -> None:
        """The client's agent just called; returns at once; failures are only logged."""
        key, activity = presence_key(federation, client), activity[:_ACTIVITY_CHARACTERS]
        with self._changed:
            before, at = self._written.get(key, ("", 0.0))
            if at and before == activity and monotonic() - at < _REPEAT_SECONDS:
                return
            self._written[key] = (activity, monotonic())
            self._waiting[key] = json.dumps({"at": datetime.now(UTC).isoformat(), "activity": activity})
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting))
                batch, self._waiting = self._waiting, {}
            try:
                with self._client.pipeline(transaction=False) as pipe:
                    for key, value in batch.items():
                        pipe.set(key, value, px=self._lifetime_ms)
                    pipe.execute()
            except (RedisError, OSError) as error:
                _log.debug("presence.lost", reason=str(error), clients=len(batch))


async def read_presence(client: redis.asyncio.Redis, federation: str, clients: Sequence[str]) -> dict[str, Presence]:
    """Of these clients (by name) those that are there. Empty when Redis cannot be reached: nobody is known to be."""
    if not clients:
        return {}
    try:
        values = await client.mget([presence_key(federation, name) for name in clients])
    except (RedisError, OSError) as error:
        _log.debug("presence.unavailable", reason=str(error))
        return {}
    parsed = {name: _parsed(value) for name, value in zip(clients, values, strict=True) if value is not None}
    return {name: presence for name, presence in parsed.items() if presence is not None}


def _parsed(value: bytes | str) -> Presence | None:
    """None for what no writer of ours wrote."""
    try:
        values = json.loads(value)
        at, activity = datetime.fromisoformat(values["at"]), str(values["activity"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return None if at.tzinfo is None else Presence(at, plain_text(activity[:_ACTIVITY_CHARACTERS]))
