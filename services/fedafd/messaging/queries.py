"""Queries to a model version, over Redis: the control plane asks, a query worker answers within seconds.

A query lies under a random name that expires, and so does its answer; the list that workers take from holds names
alone. So nothing of a query outlives it, whoever dies in between.

Each worker says every second or so that it is there, and notes what it took. Whoever asks looks whether the worker of
its query is there still, and puts the query back into the list for another where it is not: once, since a query at
which two workers ended may be what they ended of.
"""

from __future__ import annotations

import re
import secrets
from contextlib import suppress
from datetime import UTC, datetime
from enum import Enum, auto
from time import monotonic

import redis
import redis.asyncio
from redis.exceptions import RedisError

from fedafd.domain.errors import QueriesUnavailableError, StorageUnavailableError, TooManyRequestsError

__all__ = ["LOST_SECONDS", "MISSED_SECONDS", "MOST_WAITING", "QUERY_SECONDS", "QueryLine", "QueryTaker"]

QUERY_SECONDS = 30.0
"""So long a query waits for its answer; then it is forgotten."""
MOST_WAITING = 8
"""Queries that no worker has taken yet; with more the next one is refused. It bounds what pictures take of Redis."""
PRESENCE_SECONDS = 15
"""So long after it last said so a worker counts as there."""
LOST_SECONDS = 5
"""So long after it last said so a worker's query is given to another."""
MISSED_SECONDS = 600
"""So long after the last query that found no worker it is told that queries wait."""
_NAMES, _PRESENT, _MISSED = "fedafd:queries", "fedafd:query-workers", "fedafd:queries-missed"
_NONE = "no query worker is running; start one with `fedafd queries`"
_NAME = re.compile(r"[0-9a-f]{32}")
_LOOK_SECONDS = 1
"""Below the connections' timeout."""
_BUSY_SECONDS = 3


def _query_key(name: str) -> str:
    return f"fedafd:query:{name}"


def _answer_key(name: str) -> str:
    return f"fedafd:query-answer:{name}"


def _taker_key(name: str) -> str:
    return f"fedafd:query-taker:{name}"


def _worker_key(worker: str) -> str:
    return f"fedafd:query-worker:{worker}"


class _State(Enum):
    """Where a query is that has no answer yet."""

    WAITING = auto()
    UNCLAIMED = auto()
    """Out of the list, and no worker says that it took it: after more than a moment, who did was frozen or ended."""
    TAKEN = auto()
    LOST = auto()
    """The worker that took it is not there any more."""


class QueryLine:
    """The side that asks."""

    def __init__(self, client: redis.asyncio.Redis | None) -> None:
        self._client = client

    async def is_answered(self) -> bool:
        """Whether a worker is there; False, too, where Redis cannot be reached."""
        try:
            return self._client is not None and bool(await self._client.exists(_PRESENT))
        except (RedisError, OSError):
            return False

    async def missed_since(self) -> datetime | None:
        """Since when queries find no worker; None where one is there, or nobody asked lately, or Redis is away."""
        if self._client is None:
            return None
        with suppress(RedisError, OSError, ValueError, OverflowError):
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.exists(_PRESENT)
                pipe.get(_MISSED)
                present, missed = await pipe.execute()
            if missed is not None and not present:
                return datetime.fromtimestamp(float(missed), UTC)
        return None

    async def ask(self, query: bytes, *, seconds: float = QUERY_SECONDS) -> bytes:
        """The answer to a query.

        Raises QueriesUnavailableError where no worker is there or none answers in time, TooManyRequestsError where too
        many wait, StorageUnavailableError where Redis cannot be reached.
        """
        if self._client is None:
            raise QueriesUnavailableError(
                "queries need Redis: set FEDAFD_CONTROL_PLANE_REDIS_URL, and run `fedafd queries`"
            )
        try:
            return await self._asked(self._client, query, seconds)
        except (RedisError, OSError) as error:
            raise StorageUnavailableError(f"Redis cannot be reached: {error}") from error

    async def _asked(self, client: redis.asyncio.Redis, query: bytes, seconds: float) -> bytes:
        async with client.pipeline(transaction=False) as pipe:
            pipe.exists(_PRESENT)
            pipe.llen(_NAMES)
            present, waiting = await pipe.execute()
        if not present:
            await self._miss(client)
            raise QueriesUnavailableError(_NONE)
        if waiting >= MOST_WAITING:
            raise _busy(waiting)
        name = secrets.token_hex(16)
        try:  # from before it is put there: who gives up may do so while Redis has it and its answer is on the way
            waiting = await self._put(client, name, query, seconds)
            if waiting > MOST_WAITING:  # others asked in the same moment
                raise _busy(waiting - 1)
            return await self._answer(client, name, query, seconds)
        finally:
            await self._forget(client, name)

    async def _answer(self, client: redis.asyncio.Redis, name: str, query: bytes, seconds: float) -> bytes:
        end, times_lost, unclaimed = monotonic() + seconds, 0, 0
        while (left := end - monotonic()) > 0:
            if popped := await client.blpop([_answer_key(name)], timeout=_LOOK_SECONDS):
                return _content(popped[1])
            if not await client.exists(_PRESENT):
                await self._miss(client)
                raise QueriesUnavailableError(f"the query worker has ended before it answered: {_NONE}")
            state = await self._state(client, name)
            unclaimed = unclaimed + 1 if state is _State.UNCLAIMED else 0
            if state is _State.LOST or unclaimed > 1:
                times_lost, unclaimed = times_lost + 1, 0
                if times_lost > 1:
                    raise QueriesUnavailableError("two query workers ended before they answered; their logs say more")
                await self._put(client, name, query, left)
        raise QueriesUnavailableError(
            f"no query worker answered within {seconds:.0f} s; the log of `fedafd queries` says what it does"
        )

    @staticmethod
    async def _put(client: redis.asyncio.Redis, name: str, query: bytes, seconds: float) -> int:
        """Let the next free worker take the query; how many wait then."""
        async with client.pipeline(transaction=True) as pipe:
            pipe.delete(_taker_key(name))
            pipe.set(_query_key(name), query, px=max(int(seconds * 1000), 1))
            pipe.rpush(_NAMES, name)
            *_, waiting = await pipe.execute()
        return int(waiting)

    @staticmethod
    async def _state(client: redis.asyncio.Redis, name: str) -> _State:
        async with client.pipeline(transaction=True) as pipe:
            pipe.lpos(_NAMES, name)
            pipe.get(_taker_key(name))
            position, taker = await pipe.execute()
        if taker is None:
            return _State.UNCLAIMED if position is None else _State.WAITING
        return (
            _State.TAKEN if await client.exists(_worker_key(_content(taker).decode(errors="replace"))) else _State.LOST
        )

    @staticmethod
    async def _miss(client: redis.asyncio.Redis) -> None:
        async with client.pipeline(transaction=True) as pipe:
            pipe.set(_MISSED, str(datetime.now(UTC).timestamp()), nx=True)
            pipe.expire(_MISSED, MISSED_SECONDS)
            await pipe.execute()

    @staticmethod
    async def _forget(client: redis.asyncio.Redis, name: str) -> None:
        async with client.pipeline(transaction=True) as pipe:
            pipe.delete(_query_key(name), _taker_key(name))
            pipe.lrem(_NAMES, 0, name)
            await pipe.execute()


class QueryTaker:
    """The side that answers. Blocking; raises StorageUnavailableError when Redis cannot be reached."""

    def __init__(self, redis_url: str, worker: str | None = None) -> None:
        """`worker` is a name that no other worker has; the same for all takers of one."""
        self._worker = worker or secrets.token_hex(8)
        self._client = redis.Redis.from_url(redis_url, socket_connect_timeout=2, socket_timeout=5)

    def here(self) -> None:
        """This worker is there; to be said again within LOST_SECONDS."""
        try:
            with self._client.pipeline(transaction=True) as pipe:
                pipe.set(_PRESENT, "1", ex=PRESENCE_SECONDS)
                pipe.set(_worker_key(self._worker), "1", ex=LOST_SECONDS)
                pipe.delete(_MISSED)
                pipe.execute()
        except (RedisError, OSError) as error:
            raise _away(error) from error

    def is_anybody_here(self) -> bool:
        """Whether some worker is there."""
        try:
            return bool(self._client.exists(_PRESENT))
        except (RedisError, OSError) as error:
            raise _away(error) from error

    def take(self) -> tuple[str, bytes] | None:
        """Name and content of the next query; None if there was none for a second, or it was given up meanwhile."""
        try:
            popped = self._client.blpop([_NAMES], timeout=_LOOK_SECONDS)
            if popped is None:
                return None
            name = _content(popped[1]).decode(errors="replace")
            if not _NAME.fullmatch(name):  # nobody waits for it
                return None
            with self._client.pipeline(transaction=True) as pipe:
                pipe.getdel(_query_key(name))
                pipe.set(_taker_key(name), self._worker, ex=int(QUERY_SECONDS))
                content, _ = pipe.execute()
            if content is None:
                self._client.delete(_taker_key(name))
                return None
        except (RedisError, OSError) as error:
            raise _away(error) from error
        return name, _content(content)

    def answer(self, name: str, content: bytes) -> None:
        """Send the answer to a query, which whoever asked may not wait for any more."""
        try:
            with self._client.pipeline(transaction=True) as pipe:
                pipe.rpush(_answer_key(name), content)
                pipe.expire(_answer_key(name), int(QUERY_SECONDS))
                pipe.execute()
        except (RedisError, OSError) as error:
            raise _away(error) from error


def _content(value: bytes | str) -> bytes:
    """Of a connection that decodes nothing it is bytes; the library's types leave both open."""
    return value if isinstance(value, bytes) else value.encode()


def _busy(waiting: int) -> TooManyRequestsError:
    return TooManyRequestsError(
        f"{waiting} queries wait already; try again in {_BUSY_SECONDS} s, or run more of `fedafd queries`",
        retry_after_seconds=_BUSY_SECONDS,
    )


def _away(error: Exception) -> StorageUnavailableError:
    return StorageUnavailableError(f"Redis cannot be reached: {error}")
