"""Server-sent events over a real socket: nothing is missed, nothing comes twice, with Redis and without."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest
from httpx_sse import ServerSentEvent, aconnect_sse
from tests.control_plane.rest import FEDERATION, KEY, Rest, listening, problem, settings_for

from fedafd.messaging.wakeups import WakeupPublisher
from fedafd.storage import StoreSettings

PATH = "/federations/trial/events"


@pytest.fixture
async def live(database_url: str, tmp_path: Path) -> AsyncIterator[Rest]:
    quick = {"stream_poll_seconds": 0.2, "stream_heartbeat_seconds": 0.3}
    async with listening(settings_for(database_url, StoreSettings(url=str(tmp_path / "store")), **quick)) as rest:
        await rest.federation()
        yield rest


async def read(
    rest: Rest,
    count: int,
    path: str = PATH,
    headers: dict[str, str] | None = None,
    connected: asyncio.Event | None = None,
    **params: Any,
) -> list[ServerSentEvent]:
    """The first `count` messages of a stream."""
    found: list[ServerSentEvent] = []
    async with aconnect_sse(rest.http, "GET", path, params=params, headers=headers or {}) as source:
        assert source.response.headers["content-type"].startswith("text/event-stream")
        if connected is not None:
            connected.set()
        async with aclosing(source.aiter_sse()) as messages:
            async for message in messages:
                if message.data:  # a heartbeat has none
                    found.append(message)
                if len(found) == count:
                    break
    return found


async def invite(rest: Rest, *names: str) -> None:
    for name in names:
        made = await rest.http.post("/federations/trial/clients", json={"name": name, "kind": "image"})
        assert made.status_code == 201


async def test_a_stream_starts_with_the_past_and_goes_on_with_what_happens(live: Rest) -> None:
    await invite(live, "a")
    reading = asyncio.create_task(read(live, 4))
    await asyncio.sleep(0.5)
    await invite(live, "b", "c")
    found = await asyncio.wait_for(reading, 60)
    assert [message.event for message in found] == ["federation.created", *["client.invited"] * 3]
    assert [message.json()["data"].get("client") for message in found[1:]] == ["a", "b", "c"]
    page = (await live.http.get(PATH)).json()["items"]
    assert [message.json() for message in found] == page
    assert [message.id for message in found] == [str(event["id"]) for event in page]


async def test_a_reader_that_was_cut_off_goes_on_where_it_was(live: Rest) -> None:
    await invite(live, "a", "b")
    seen = await read(live, 2)
    await invite(live, "c")
    rest = await read(live, 2, headers={"Last-Event-ID": seen[-1].id})
    assert [message.json()["data"]["client"] for message in rest] == ["b", "c"]


async def test_writers_at_once_are_all_seen_once_and_in_order(live: Rest) -> None:
    reading = asyncio.create_task(read(live, 21))
    await asyncio.gather(*(invite(live, f"c{number}") for number in range(20)))
    ids = [int(message.id) for message in await asyncio.wait_for(reading, 90)]
    assert ids == sorted(set(ids))
    assert len(ids) == 21


async def test_a_stream_can_start_with_now(live: Rest) -> None:
    connected = asyncio.Event()
    reading = asyncio.create_task(read(live, 1, connected=connected, cursor="end"))
    await connected.wait()
    await invite(live, "later")
    (message,) = await asyncio.wait_for(reading, 60)
    assert message.json()["data"]["client"] == "later"


async def test_a_page_leads_to_the_stream_that_goes_on_after_it(live: Rest) -> None:
    await invite(live, "a")
    page = (await live.http.get(PATH)).json()
    assert page["next_cursor"] is None
    await invite(live, "b")
    (message,) = await read(live, 1, cursor=page["end_cursor"])
    assert message.json()["data"]["client"] == "b"
    assert (await live.http.get(PATH, params={"cursor": page["end_cursor"]})).json()["items"] == [message.json()]


async def test_a_silent_stream_sends_heartbeats(live: Rest) -> None:
    headers = {"Accept": "text/event-stream"}
    async with live.http.stream("GET", PATH, params={"cursor": "end"}, headers=headers) as response:
        lines = []
        async with asyncio.timeout(60):
            async for line in response.aiter_lines():
                lines.append(line)
                if lines.count(": heartbeat") == 2:
                    break
    assert set(lines) == {": heartbeat", ""}


@pytest.mark.parametrize("last", ["", "x", "-1", "1.5", "999999999", "9" * 30])
async def test_a_last_event_id_that_is_none_is_refused(live: Rest, last: str) -> None:
    headers = {"Accept": "text/event-stream", "Last-Event-ID": last}
    problem(await live.http.get(PATH, headers=headers), 422, "invalid-request")


async def test_the_stream_of_a_revoked_key_ends(live: Rest) -> None:
    headers = await live.key("board", "viewer")
    connected = asyncio.Event()
    reading = asyncio.create_task(read(live, 1000, headers=headers, connected=connected))
    await connected.wait()
    await live.http.delete("/api-keys/board")
    assert len(await asyncio.wait_for(reading, 60)) == 1


def shards_in(folder: Path) -> int:
    """Shards of the public set that was pushed; the arrival of each is an event."""
    return len([*(folder / "public").glob("*.parquet")])


async def test_progress_of_the_open_round_comes_when_asked_for(live: Rest, tmp_path: Path) -> None:
    await live.public_set(tmp_path)
    await live.http.post("/federations/trial/rounds", json={"count": 1})
    before = 2 + shards_in(tmp_path)
    found = await read(live, before + 2, progress="true")
    queued, progress = found[before:]
    assert (queued.event, progress.event) == ("rounds.queued", "round.progress")
    assert (progress.json()["number"], progress.json()["state"]) == (1, "queued")
    assert progress.id == queued.id  # it has none of its own, so that it is never gone on from
    assert "round.progress" not in [message.event for message in await read(live, before + 1)]


async def test_what_the_open_round_waits_for_comes_with_its_progress(live: Rest, tmp_path: Path) -> None:
    await live.public_set(tmp_path)
    await live.http.post("/federations/trial/rounds", json={"count": 1})
    found = (await read(live, 5 + shards_in(tmp_path), progress="true"))[-1]
    assert found.event == "round.waits"
    told = found.json()
    assert (told["federation"], told["round"], told["cause"]) == ("trial", 1, "no-aggregator")


async def test_admins_see_everything_that_happens(live: Rest) -> None:
    await live.key("board", "viewer")
    found = await read(live, 2, "/events")
    assert [(message.event, message.json()["federation"]) for message in found] == [
        ("federation.created", "trial"),
        ("api_key.created", None),
    ]


async def test_a_wakeup_of_another_process_comes_at_once(postgres_url: str, tmp_path: Path, redis_url: str) -> None:
    slow = {"stream_poll_seconds": 50.0, "redis_url": redis_url}
    store = StoreSettings(url=str(tmp_path / "store"))
    async with listening(settings_for(postgres_url, store, **slow)) as rest:
        await rest.federation()
        reading = asyncio.create_task(read(rest, 2))
        await asyncio.sleep(1)
        # Written as another process would: the row, then the wake-up.
        from fedafd.persistence.event_repository import record_event

        async with rest.context.database.transaction() as session:
            record_event(session, "test.happened", federation_id="trial", actor="test")
        began = monotonic()
        publisher = WakeupPublisher(redis_url)
        while not reading.done() and monotonic() - began < 40:
            publisher.publish("trial")
            await asyncio.sleep(0.3)
        assert [message.event for message in await reading] == ["federation.created", "test.happened"]


async def test_streams_end_when_the_server_does(database_url: str, tmp_path: Path) -> None:
    async def until_the_end(url: str) -> list[str]:
        headers = {"Authorization": f"Bearer {KEY}", "Accept": "text/event-stream"}
        async with (
            httpx.AsyncClient(timeout=60, headers=headers) as http,
            http.stream("GET", f"{url}/v1{PATH}") as response,
        ):
            started.set()
            try:
                return [line async for line in response.aiter_lines()]
            except httpx.RemoteProtocolError:
                return []

    started = asyncio.Event()
    async with listening(settings_for(database_url, StoreSettings(url=str(tmp_path / "store")))) as rest:
        await rest.http.post("/federations", json=FEDERATION)
        reading = asyncio.create_task(until_the_end(rest.url))
        await started.wait()
    lines = await asyncio.wait_for(reading, 30)
    assert all(json.loads(line[6:])["kind"] for line in lines if line.startswith("data: "))
