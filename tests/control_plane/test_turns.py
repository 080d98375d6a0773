"""Requests of one caller take turns, so that many of one cost the others little."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import anyio.to_thread
import pytest
from fastapi import Request
from fastapi.responses import StreamingResponse
from tests.control_plane.rest import KEY, Rest, in_process, listening, problem, settings_for

from fedafd.control_plane.turns import AT_ONCE, CROWD, STORE_AT_ONCE, Turns, in_store, without_turn
from fedafd.domain.errors import TooManyRequestsError
from fedafd.storage import StoreSettings


class Gate:
    """An endpoint that counts who is inside, and lets nobody out until it is opened."""

    def __init__(self, *, elsewhere: bool = False) -> None:
        self.inside: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.opened, self._entered = asyncio.Event(), asyncio.Condition()
        self._elsewhere = elsewhere

    async def __call__(self, request: Request) -> dict[str, str]:
        who = request.headers.get("x-who", "")
        self.inside[who] += 1
        self.most[who] = max(self.most[who], self.inside[who])
        async with self._entered:
            self._entered.notify_all()
        if self._elsewhere:
            async with without_turn():
                await self.opened.wait()
        else:
            await self.opened.wait()
        self.inside[who] -= 1
        return {}

    async def has(self, who: str, count: int) -> None:
        """Wait until so many of them are inside."""
        async with asyncio.timeout(20), self._entered:
            await self._entered.wait_for(lambda: self.inside[who] >= count)


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Rest]:
    settings = settings_for(f"sqlite:///{tmp_path}/turns.db", StoreSettings(url=str(tmp_path / "store")))
    async with in_process(settings) as rest:
        yield rest


async def _known(rest: Rest, name: str) -> dict[str, str]:
    headers = await rest.key(name, "viewer") | {"X-Who": name}
    assert (await rest.http.get("/federations", headers=headers)).status_code == 200
    return headers


async def test_two_requests_of_a_key_are_worked_on_at_once_and_others_go_on_beside_them(here: Rest) -> None:
    gate = Gate()
    here.app.add_api_route("/v1/gate", gate.__call__)
    many, other = await _known(here, "many"), await _known(here, "other")
    flood = [asyncio.create_task(here.http.get("/gate", headers=many)) for _ in range(10)]
    await gate.has("many", AT_ONCE)
    assert (await here.http.get("/federations", headers=other)).status_code == 200
    assert (await here.http.get("http://test/healthz")).status_code == 200
    assert gate.inside["many"] == AT_ONCE
    gate.opened.set()
    assert {answer.status_code for answer in await asyncio.gather(*flood)} == {200}
    assert gate.most["many"] == AT_ONCE
    assert here.context.turns.callers() == []


async def test_pages_of_a_session_and_requests_of_its_key_are_one_callers(here: Rest) -> None:
    gate = Gate()
    here.app.add_api_route("/v1/gate", gate.__call__)
    here.app.add_api_route("/gate", gate.__call__)
    many = await _known(here, "many")
    await here.http.post("http://test/login", data={"key": many["Authorization"].removeprefix("Bearer ")})
    tasks = [asyncio.create_task(here.http.get("/gate", headers=many)) for _ in range(AT_ONCE)]
    await gate.has("many", AT_ONCE)
    page = asyncio.create_task(here.http.get("http://test/gate", headers={"X-Who": "many"}))
    (line,) = here.context.turns.callers()
    assert not line.startswith("address")
    await asyncio.sleep(0.05)
    assert gate.inside["many"] == AT_ONCE
    gate.opened.set()
    await asyncio.gather(page, *tasks)
    assert gate.most["many"] == AT_ONCE


async def test_strangers_of_one_address_take_turns_and_hold_up_no_known_key(here: Rest) -> None:
    gate = Gate()
    here.app.add_api_route("/gate", gate.__call__)
    known = await _known(here, "known")
    here.http.cookies.clear()
    flood = [asyncio.create_task(here.http.get("http://test/gate")) for _ in range(30)]
    await gate.has("", 8)
    assert (await here.http.get("/federations", headers=known)).status_code == 200
    assert gate.inside[""] == 8
    gate.opened.set()
    await asyncio.gather(*flood)
    assert gate.most[""] == 8


async def test_a_request_that_waits_for_another_process_has_no_turn(here: Rest) -> None:
    gate = Gate(elsewhere=True)
    here.app.add_api_route("/v1/gate", gate.__call__)
    many = await _known(here, "many")
    flood = [asyncio.create_task(here.http.get("/gate", headers=many)) for _ in range(10)]
    await gate.has("many", 10)
    assert (await here.http.get("/federations", headers=many)).status_code == 200
    gate.opened.set()
    await asyncio.gather(*flood)


async def test_one_request_too_many_is_refused(here: Rest) -> None:
    gate = Gate()
    here.app.add_api_route("/v1/gate", gate.__call__)
    many = await _known(here, "many")
    object.__setattr__(here.context, "turns", Turns(most=3))
    tasks = [asyncio.create_task(here.http.get("/gate", headers=many)) for _ in range(3)]
    await gate.has("many", AT_ONCE)
    refused = await here.http.get("/federations", headers=many)
    problem(refused, 429, "too-many-requests")
    assert refused.headers["retry-after"] == "1"
    gate.opened.set()
    assert {answer.status_code for answer in await asyncio.gather(*tasks)} == {200}


async def test_a_crowd_gets_one_turn_at_a_time_and_none_after_it() -> None:
    turns, inside, most = Turns(), 0, 0

    async def one() -> None:
        nonlocal inside, most
        async with turns.of("caller"):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    first = [asyncio.create_task(one()) for _ in range(CROWD)]
    await asyncio.sleep(0)
    crowd = [asyncio.create_task(one()) for _ in range(100)]
    await asyncio.gather(*first)
    most = inside
    await asyncio.gather(*crowd)
    assert most == 1
    await asyncio.gather(one(), one(), one())
    assert most == AT_ONCE
    assert turns.callers() == []


async def test_who_ends_while_it_waits_for_its_turn_takes_none() -> None:
    turns = Turns()
    async with turns.of("caller", at_once=1) as first:
        first.leave()
        async with turns.of("caller", at_once=1):
            again = asyncio.create_task(first.take())
            await asyncio.sleep(0)
            first.end()
        await again
        async with asyncio.timeout(10), turns.of("caller", at_once=1):
            pass


async def test_the_store_is_read_without_a_turn_by_so_many_of_a_caller() -> None:
    turns, reading, most = Turns(), 0, 0
    guard, opened = threading.Lock(), threading.Event()

    def read() -> None:
        nonlocal reading, most
        with guard:
            reading += 1
            most = max(most, reading)
        opened.wait(20)
        with guard:
            reading -= 1

    async def one() -> None:
        async with turns.of("caller"):
            await in_store(read)

    downloads = [asyncio.create_task(one()) for _ in range(2 * STORE_AT_ONCE)]
    async with asyncio.timeout(20):
        while reading < STORE_AT_ONCE:  # noqa: ASYNC110, threads tell no event of this loop
            await asyncio.sleep(0.01)
        async with turns.of("caller"), turns.of("caller"):
            opened.set()
        await asyncio.gather(*downloads)
    assert most == STORE_AT_ONCE


async def test_who_waits_too_long_is_refused_and_leaves_nothing_behind() -> None:
    turns = Turns(wait_seconds=0.05)
    async with turns.of("caller", 1) as first:
        with pytest.raises(TooManyRequestsError):
            async with turns.of("caller", 1):
                raise AssertionError
        first.leave()
        async with turns.of("caller", 1):
            taking = asyncio.create_task(first.take())
            await asyncio.sleep(0)
            taking.cancel()
            with suppress(asyncio.CancelledError):
                await taking
    assert turns.callers() == []
    async with turns.of("caller", 1):
        assert turns.callers() == ["caller"]


async def test_who_reads_slowly_sends_slowly_or_reads_events_holds_up_nothing_of_its_own(tmp_path: Path) -> None:
    settings = settings_for(f"sqlite:///{tmp_path}/live.db", StoreSettings(url=str(tmp_path / "store")))
    async with listening(settings) as live:
        pieces = [b"x" * 1_000_000] * 40
        live.app.add_api_route("/v1/large", lambda: StreamingResponse(iter(pieces)))
        many = await _known(live, "many")
        lines = [f"{name}: {value}" for name, value in many.items()]
        host, port = "127.0.0.1", int(live.url.rpartition(":")[2])
        writers = []
        for head in (
            *["GET /v1/large HTTP/1.1"] * 3,
            *["POST /v1/models HTTP/1.1\r\nContent-Length: 100"] * 3,
            *["GET /v1/federations/trial/events HTTP/1.1\r\nAccept: text/event-stream\r\nContent-Length: 100"] * 3,
        ):
            _, writer = await asyncio.open_connection(host, port, limit=1024)
            writer.write("\r\n".join([head, "Host: x", *lines, "", ""]).encode())
            writers.append(writer)
        await live.federation()
        for _ in range(3):
            async with asyncio.timeout(20):
                assert (await live.http.get("/federations", headers=many)).status_code == 200
            await asyncio.sleep(0.2)
        for writer in writers:
            writer.close()


async def test_requests_go_on_while_downloads_have_all_threads(here: Rest) -> None:
    """FastAPI calls plain functions in threads, of which there are so many for everything that a process does."""
    await here.federation()
    await here.http.post("http://test/login", data={"key": KEY})
    threads = anyio.to_thread.current_default_thread_limiter()
    downloads = [object() for _ in range(int(threads.available_tokens))]
    for download in downloads:
        threads.acquire_on_behalf_of_nowait(download)
    try:
        async with asyncio.timeout(20):
            for path in ("/v1/federations/trial", "/v1/federations/trial/events", "/v1/status", "/", "/keys"):
                answer = await here.http.get(f"http://test{path}")
                assert answer.status_code == 200, path
            assert (await here.http.put("/drain", json={})).status_code == 200
    finally:
        for download in downloads:
            threads.release_on_behalf_of(download)
