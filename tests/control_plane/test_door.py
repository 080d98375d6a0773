"""What a stranger or a greedy caller may not do: be read before it is known, guess keys, fill the answer or the log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import Request
from tests.control_plane.rest import FEDERATION, Rest, listening, problem, settings_for

from fedafd.control_plane.failed_logins import FailedLogins
from fedafd.control_plane.patience import PatientProtocol
from fedafd.control_plane.rates import MOST_REMEMBERED
from fedafd.domain.errors import TooManyRequestsError
from fedafd.storage import StoreSettings

WRONG = {"Authorization": "Bearer wrong"}


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Rest]:
    store = StoreSettings(url=str(tmp_path / "store"))
    url = f"sqlite:///{tmp_path}/live.db"
    settings = settings_for(url, store, streams_per_key=2, body_idle_seconds=0.5, failed_logins_per_minute=5)
    async with listening(settings) as rest:
        yield rest


async def test_a_body_is_not_read_before_its_sender_is_known(rest: Rest) -> None:
    asked = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal asked
        for _ in range(8):
            asked += 1
            yield b"[" * 1000

    for headers in (WRONG, {"Authorization": ""}, {"Authorization": "Bearer    "}):
        for method, path in (
            ("POST", "/federations"),
            ("PUT", "/drain"),
            ("PUT", f"/federations/x/public-set/shards/{'0' * 64}"),
        ):
            answer = await rest.http.request(method, path, content=body(), headers=headers)
            problem(answer, 401, "unauthenticated")
    assert asked == 0


async def test_who_tries_many_keys_is_refused_and_honest_callers_are_not(rest: Rest) -> None:
    assert (await rest.http.get("/federations")).status_code == 200
    answers: list[httpx.Response] = []
    while not answers or answers[-1].status_code == 401:
        guess = {"Authorization": f"Bearer guess-{len(answers)}"}
        answers.append(await rest.http.get("/federations", headers=guess))
    assert 60 < len(answers) < 150
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 61
    problem(answers[-1], 429, "too-many-requests")
    assert (await rest.http.get("/federations")).status_code == 200
    await rest.context.failed_logins.write(rest.context.database)
    await rest.context.failed_logins.write(rest.context.database)
    events = [e for e in (await rest.http.get("/events")).json()["items"] if e["kind"] == "login.failed"]
    assert [(e["actor"], e["federation"]) for e in events] == [("address:127.0.0.1", None)]
    assert 1 <= events[0]["data"]["count"] <= len(answers)


async def test_what_is_remembered_of_failures_is_bounded() -> None:
    failed = FailedLogins(per_minute=1000)
    for number in range(MOST_REMEMBERED + 10):
        await failed.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", str(number), f"key-{number}")
        failed.opened(str(number), "caller")
    kept = (failed._rates._here, failed._opened, failed._ended, failed._unwritten)
    assert {len(each) for each in kept} == {MOST_REMEMBERED}


async def test_addresses_of_one_network_of_version_6_count_as_one() -> None:
    failed = FailedLogins(per_minute=3)
    for last in range(3):
        await failed.failed(f"2001:db8::{last}", "guess", None)
    with pytest.raises(TooManyRequestsError):
        await failed.check("2001:db8::99", "guess")
    await failed.check("2001:db8:1::1", "guess")


@pytest.mark.parametrize(
    "body",
    [
        {f"key-{n}": n for n in range(50_000)},
        FEDERATION | {f"key-{n}": n for n in range(50_000)},
        {"k" * 900_000: 1},
        FEDERATION | {"server": {"k" * 900_000: 1}},
        FEDERATION | {"preset": "x" * 900_000},
    ],
    ids=["many", "many beside good ones", "long key", "long nested key", "long value"],
)
async def test_an_answer_is_short_however_much_was_wrong(rest: Rest, body: dict[str, object]) -> None:
    await rest.federation("other")
    for path in ("/federations", "/federations/other/rounds", "/federations/other/clients"):
        answer = await rest.http.post(path, json=body)
        assert answer.status_code == 422
        assert len(answer.content) < 20_000


async def test_what_cannot_be_parsed_is_a_documented_422(rest: Rest) -> None:
    headers = {"Content-Type": "application/json"}
    for content in (b"\xff\xfe{", b"[" * 100_000, b'{"name": "\xff"}', b""):
        answer = await rest.http.post("/federations", content=content, headers=headers)
        problem(answer, 422, "invalid-request")


async def test_a_method_that_a_path_lacks_is_a_405(rest: Rest) -> None:
    await rest.federation()
    answer = await rest.http.get("/federations/trial/models/rollback")
    problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "POST"


async def test_every_answer_tells_browsers_to_be_careful(rest: Rest) -> None:
    for path in ("/v1/federations", "/v1/nowhere", "/healthz", "/docs", "/openapi.json"):
        for headers in ({}, WRONG):
            answer = await rest.http.get(f"http://test{path}", headers=headers)
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["x-frame-options"] == "DENY"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
            assert answer.headers["cache-control"] == "no-store"


async def test_a_key_has_so_many_streams_and_no_more(live: Rest) -> None:
    headers = {"Accept": "text/event-stream"}
    async with live.http.stream("GET", "/events", headers=headers) as first:
        assert first.status_code == 200
        async with live.http.stream("GET", "/events", headers=headers):
            problem(await live.http.get("/events", headers=headers), 429, "too-many-requests")
            other = await live.key("other", "admin")
            async with live.http.stream("GET", "/events", headers=headers | other) as another:
                assert another.status_code == 200
        for _ in range(200):  # until the server has seen that the second is gone
            if (status := await _status(live, headers)) == 200:
                break
            await asyncio.sleep(0.1)
        assert status == 200


async def _status(live: Rest, headers: dict[str, str]) -> int:
    async with live.http.stream("GET", "/events", headers=headers) as answer:
        return answer.status_code


async def _raw(live: Rest, *pieces: bytes, pause: float = 0.0) -> bytes:
    """What comes back until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(live.url.rpartition(":")[2]))
    async with asyncio.timeout(20):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        found = await reader.read()
    writer.close()
    return found


async def test_a_body_that_does_not_come_is_given_up(live: Rest) -> None:
    key = live.http.headers["authorization"]
    head = f"POST /v1/federations HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nContent-Length: 100\r\n\r\n"
    answer = await _raw(live, head.encode(), b"{")
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"urn:fedafd:error:request-timeout" in answer


async def test_headers_that_do_not_come_are_given_up(live: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PatientProtocol, "header_seconds", 0.5)
    assert await _raw(live, b"GET /healthz HTTP/1.1\r\nHost: x\r\n", pause=0.0) == b""
    assert await _raw(live) == b""
    # Drops do not help, and neither does a first request.
    whole = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = await _raw(live, whole, b"GET /healthz HTTP/1.1\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.count(b"HTTP/1.1") == 1


async def test_a_server_that_is_slow_to_read_does_not_take_it_for_a_slow_request(live: Rest) -> None:
    async def slow(request: Request) -> dict[str, int]:
        await asyncio.sleep(0.8)
        return {"size": len(await request.body())}

    live.app.add_api_route("/v1/test", slow, methods=["POST"])
    assert (await live.http.post("/test", content=b"x" * 10)).json() == {"size": 10}


async def test_a_slow_answer_is_no_slow_request(live: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PatientProtocol, "header_seconds", 0.3)

    async def slow() -> dict[str, str]:
        await asyncio.sleep(1)
        return {}

    live.app.add_api_route("/v1/test", slow)
    assert (await live.http.get("/test")).status_code == 200


async def test_a_length_that_no_body_has_is_refused(rest: Rest) -> None:
    answer = await rest.http.post("/federations", content=b"{}", headers={"Content-Length": "9" * 5000})
    problem(answer, 413, "request-too-large")


async def test_controls_do_not_enter_by_a_reason(rest: Rest) -> None:
    reason = "up\x1b[2Jgrade\r\nadmin: \u202egood\x9b31m"
    drained = await rest.http.put("/drain", json={"reason": reason})
    assert drained.json()["reason"] == "up [2Jgrade admin:  good 31m"
    text = json.dumps((await rest.http.get("/events")).json(), ensure_ascii=False)
    assert not any(mark in text for mark in "\x1b\r\u202e\x9b")
