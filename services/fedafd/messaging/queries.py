"""Queries to a model version, over Redis: the control plane asks, a query worker answers within seconds.

A query lies under a random name that expires, and so does its answer; the list that workers take from holds names
alone. So nothing of a query outlives it, whoever dies in between.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from datetime import UTC, datetime
from time import monotonic

import redis
import redis.asyncio
from redis.exceptions import RedisError

from fedafd.domain.errors import QueriesUnavailableError, StorageUnavailableError, TooManyRequestsError

__all__ = ["MISSED_SECONDS", "MOST_WAITING", "QUERY_SECONDS", "QueryLine", "QueryTaker"]

QUERY_SECONDS = 30.0
"""So long a query waits for its answer; then it is forgotten."""
MOST_WAITING = 8
"""Queries that no worker has taken yet; with more the next one is refused. It bounds what pictures take of Redis."""
PRESENCE_SECONDS = 15
MISSED_SECONDS = 600
"""So long after the last query that found no worker it is told that queries wait."""
_NAMES, _PRESENT, _MISSED = "fedafd:queries", "fedafd:query-workers", "fedafd:queries-missed"
_NONE = "no query worker is running; start one with `fedafd queries`"
_LOOK_SECONDS = 1
"""Below the connections' timeout."""
_BUSY_SECONDS = 3


def _query_key(name: str) -> str:
    return f"fedafd:query:{name}"


def _answer_key(name: str) -> str:
    return f"fedafd:query-answer:{name}"


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
        with suppress(RedisError, OSError, ValueError):
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
        async with client.pipeline(transaction=True) as pipe:
            pipe.set(_query_key(name), query, px=int(seconds * 1000))
            pipe.rpush(_NAMES, name)
            _, waiting = await pipe.execute()
        if waiting > MOST_WAITING:  # others asked in the same moment
            await self._forget(client, name)
            raise _busy(waiting - 1)
        end = monotonic() + seconds
        try:
            while monotonic() < end:
                if popped := await client.blpop([_answer_key(name)], timeout=_LOOK_SECONDS):
                    return _content(popped[1])
                if not await client.exists(_PRESENT):
                    await self._forget(client, name)
                    await self._miss(client)
                    raise QueriesUnavailableError(f"the query worker has ended before it answered: {_NONE}")
        except asyncio.CancelledError:
            await self._forget(client, name)
            raise
        await self._forget(client, name)
        raise QueriesUnavailableError(
            f"no query worker answered within {seconds:.0f} s; the log of `fedafd queries` says what it does"
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
            pipe.delete(_query_key(name))
            pipe.lrem(_NAMES, 0, name)
            await pipe.execute()


class QueryTaker:
    """The side that answers. Blocking; raises StorageUnavailableError when Redis cannot be reached."""

    def __init__(self, redis_url: str) -> None:
        self._client = redis.Redis.from_url(redis_url, socket_connect_timeout=2, socket_timeout=5)

    def here(self) -> None:
        """A worker is there; to be said again within PRESENCE_SECONDS."""
        try:
            with self._client.pipeline(transaction=True) as pipe:
                pipe.set(_PRESENT, "1", ex=PRESENCE_SECONDS)
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
            name = _content(popped[1]).decode()
            content = self._client.getdel(_query_key(name))
        except (RedisError, OSError) as error:
            raise _away(error) from error
        return None if content is None else (name, _content(content))

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
