"""A query and its answer over a real Redis: quick, refused where nobody would answer, and forgotten in any case."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
import redis.asyncio

from fedafd.domain.errors import QueriesUnavailableError, StorageUnavailableError, TooManyRequestsError
from fedafd.messaging.queries import MISSED_SECONDS, MOST_WAITING, QueryLine, QueryTaker


@pytest.fixture
def url(redis_url: str) -> str:
    """A database of these tests' own, empty."""
    url = redis_url.removesuffix("/0") + "/7"
    redis.Redis.from_url(url).flushdb()
    return url


@pytest.fixture
async def line(url: str) -> AsyncIterator[QueryLine]:
    client = redis.asyncio.Redis.from_url(url, socket_timeout=2)
    yield QueryLine(client)
    await client.aclose()


def kept(url: str) -> list[bytes]:
    keys = redis.Redis.from_url(url).scan_iter()
    return sorted(key for key in keys if not key.startswith(b"fedafd:query-worker"))


async def test_a_query_is_answered_and_nothing_of_it_stays(url: str, line: QueryLine) -> None:
    taker = QueryTaker(url)
    taker.here()

    def work() -> None:
        for _ in range(2):
            taken = taker.take()
            assert taken is not None
            taker.answer(taken[0], taken[1].upper())

    worker = threading.Thread(target=work)
    worker.start()
    assert await line.ask(b"one") == b"ONE"
    assert await line.ask(b"two") == b"TWO"
    worker.join()
    assert kept(url) == []


async def test_without_a_worker_it_says_what_to_start(url: str, line: QueryLine) -> None:
    with pytest.raises(QueriesUnavailableError, match="start one with `fedafd queries`"):
        await line.ask(b"secret")
    assert kept(url) == [b"fedafd:queries-missed"], "a time, and nothing of the query"


async def test_since_when_queries_find_no_worker_is_known_until_one_is_there(url: str, line: QueryLine) -> None:
    assert await line.missed_since() is None, "nobody asked"
    before = datetime.now(UTC)
    for _ in range(2):
        with pytest.raises(QueriesUnavailableError):
            await line.ask(b"secret")
    first = await line.missed_since()
    assert first is not None and before <= first <= datetime.now(UTC)
    with pytest.raises(QueriesUnavailableError):
        await line.ask(b"secret")
    assert await line.missed_since() == first, "of the first query, not of the last"
    assert 0 < redis.Redis.from_url(url).ttl("fedafd:queries-missed") <= MISSED_SECONDS
    taker = QueryTaker(url)
    taker.here()
    assert await line.missed_since() is None
    redis.Redis.from_url(url).delete("fedafd:query-workers")
    assert await line.missed_since() is None, "it ended, and nobody asked since"


async def test_who_waits_for_a_worker_that_dies_is_told_before_the_time_is_over(url: str, line: QueryLine) -> None:
    taker, client = QueryTaker(url), redis.Redis.from_url(url)
    taker.here()
    asking = asyncio.create_task(line.ask(b"secret"))
    while (await asyncio.to_thread(taker.take)) is None:
        pass
    client.delete("fedafd:query-workers")  # as it expires after 15 s
    with pytest.raises(QueriesUnavailableError, match=r"has ended before it answered: no query worker is running"):
        await asyncio.wait_for(asking, 5)
    assert kept(url) == [b"fedafd:queries-missed"]


def taken_by(taker: QueryTaker) -> tuple[str, bytes]:
    for _ in range(5):
        if taken := taker.take():
            return taken
    raise AssertionError("no query came")


def end(url: str, worker: str) -> None:
    """As it is some seconds after a kill."""
    redis.Redis.from_url(url).delete(f"fedafd:query-worker:{worker}")


async def test_the_query_of_a_worker_that_dies_goes_to_another_at_once(url: str, line: QueryLine) -> None:
    dying, other = QueryTaker(url, "dying"), QueryTaker(url, "other")
    dying.here()
    other.here()
    asking = asyncio.create_task(line.ask(b"one"))
    assert (await asyncio.to_thread(taken_by, dying))[1] == b"one"
    end(url, "dying")
    name, content = await asyncio.to_thread(taken_by, other)
    assert content == b"one"
    other.answer(name, b"ONE")
    assert await asyncio.wait_for(asking, 5) == b"ONE"
    assert kept(url) == []


async def test_a_query_that_came_to_a_frozen_worker_goes_to_another(url: str, line: QueryLine) -> None:
    """Redis hands the name to a connection whose process does nothing more."""
    QueryTaker(url).here()
    asking = asyncio.create_task(line.ask(b"one"))
    assert await asyncio.to_thread(redis.Redis.from_url(url).blpop, ["fedafd:queries"], 5) is not None
    other = QueryTaker(url)
    name, _ = await asyncio.to_thread(taken_by, other)
    other.answer(name, b"ONE")
    assert await asyncio.wait_for(asking, 5) == b"ONE"
    assert kept(url) == []


async def test_a_query_that_two_workers_end_at_is_given_to_no_third(url: str, line: QueryLine) -> None:
    workers = [QueryTaker(url, f"worker-{number}") for number in range(3)]
    for worker in workers:
        worker.here()
    asking = asyncio.create_task(line.ask(b"deadly"))
    for number in range(2):
        await asyncio.to_thread(taken_by, workers[number])
        end(url, f"worker-{number}")
    with pytest.raises(QueriesUnavailableError, match="two query workers ended before they answered"):
        await asyncio.wait_for(asking, 10)
    assert await asyncio.to_thread(workers[2].take) is None
    assert kept(url) == []


async def test_a_worker_that_was_only_silent_may_answer_after_all(url: str, line: QueryLine) -> None:
    silent = QueryTaker(url, "silent")
    silent.here()
    asking = asyncio.create_task(line.ask(b"one"))
    name, _ = await asyncio.to_thread(taken_by, silent)
    end(url, "silent")
    while not redis.Redis.from_url(url).llen("fedafd:queries"):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    silent.answer(name, b"ONE")
    assert await asyncio.wait_for(asking, 5) == b"ONE"
    assert kept(url) == [], "it is not in the list any more"


async def test_a_worker_that_does_not_answer_leaves_no_query_behind(url: str, line: QueryLine) -> None:
    QueryTaker(url).here()
    with pytest.raises(QueriesUnavailableError, match="answered within 1 s"):
        await line.ask(b"secret", seconds=1)
    assert kept(url) == []


async def asked(url: str, line: QueryLine) -> asyncio.Task[bytes]:
    """A query that lies in Redis and has no answer."""
    asking = asyncio.create_task(line.ask(b"secret"))
    while len(kept(url)) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return asking


async def test_who_gives_up_takes_the_query_back(url: str, line: QueryLine) -> None:
    QueryTaker(url).here()
    asking = await asked(url, line)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert kept(url) == []


async def test_who_gives_up_before_redis_has_answered_takes_it_back_as_well(
    url: str, line: QueryLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stayed there, a picture maybe, until it expired."""
    put = QueryLine._put

    async def put_without_an_answer(*given: Any) -> int:
        await put(*given)
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(QueryLine, "_put", staticmethod(put_without_an_answer))
    QueryTaker(url).here()
    asking = await asked(url, line)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert kept(url) == []


async def test_what_a_dead_control_plane_asked_expires_and_is_passed_over(url: str, line: QueryLine) -> None:
    client, taker = redis.Redis.from_url(url), QueryTaker(url)
    client.rpush("fedafd:queries", "whose-query-expired")
    assert taker.take() is None
    taker.here()
    asking = await asked(url, line)
    (query,) = [key for key in kept(url) if key.startswith(b"fedafd:query:")]
    assert 0 < client.pttl(query) <= 30_000
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    taker.answer("nobody-waits", b"x")
    assert 0 < client.ttl("fedafd:query-answer:nobody-waits") <= 30


async def test_too_many_that_wait_are_refused_before_redis_takes_more(url: str, line: QueryLine) -> None:
    QueryTaker(url).here()
    redis.Redis.from_url(url).rpush("fedafd:queries", *map(str, range(MOST_WAITING)))
    with pytest.raises(TooManyRequestsError) as refused:
        await line.ask(b"one more")
    assert refused.value.data["retry_after_seconds"] > 0


async def test_many_that_ask_in_the_same_moment_are_held_to_the_same_limit(url: str, line: QueryLine) -> None:
    QueryTaker(url).here()
    asked = await asyncio.gather(*(line.ask(b"x", seconds=1) for _ in range(3 * MOST_WAITING)), return_exceptions=True)
    refused = [each for each in asked if isinstance(each, TooManyRequestsError)]
    waited = [each for each in asked if isinstance(each, QueriesUnavailableError)]
    assert (len(refused), len(waited)) == (2 * MOST_WAITING, MOST_WAITING)
    assert kept(url) == []


async def test_without_redis_it_says_so() -> None:
    with pytest.raises(QueriesUnavailableError, match="REDIS_URL"):
        await QueryLine(None).ask(b"x")
    away = redis.asyncio.Redis.from_url("redis://127.0.0.1:1/0", socket_connect_timeout=1)
    with pytest.raises(StorageUnavailableError, match="Redis cannot be reached"):
        await QueryLine(away).ask(b"x")
    assert await QueryLine(None).missed_since() is None
    assert await QueryLine(away).missed_since() is None
    with pytest.raises(StorageUnavailableError):
        QueryTaker("redis://127.0.0.1:1/0").take()


@pytest.mark.parametrize("name", [b"\xff\xfe", b"", b"no name of ours", b"0" * 100_000, b"0" * 31 + b"\n"])
def test_a_name_that_is_none_of_ours_is_passed_over(url: str, name: bytes) -> None:
    client, taker = redis.Redis.from_url(url), QueryTaker(url)
    client.rpush("fedafd:queries", name)
    assert taker.take() is None
    assert kept(url) == []


async def test_a_time_that_is_none_and_a_worker_without_a_name_are_no_failure(url: str, line: QueryLine) -> None:
    client = redis.Redis.from_url(url)
    for moment in (b"1e300", b"nan", b"\xff"):
        client.set("fedafd:queries-missed", moment)
        assert await line.missed_since() is None
