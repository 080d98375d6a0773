"""How often is too often: shared by replicas while Redis is there, counted by each for itself while it is away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import redis.asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.control_plane.rest import KEY, Rest, in_process, problem, settings_for

from fedafd.control_plane.rates import Rates, Seen
from fedafd.control_plane.settings import ControlPlaneSettings
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.settings import load_process_settings
from fedafd.storage import StoreSettings

COUNTS = st.integers(0, 10_000)


@pytest.fixture
async def rest(tmp_path: Path) -> AsyncIterator[Rest]:
    store = StoreSettings(url=str(tmp_path / "store"))
    limits = {"requests_per_minute": 20, "failed_logins_per_minute": 4, "trusted_proxies": "10.0.0.0/8"}
    async with in_process(settings_for(f"sqlite:///{tmp_path}/rates.db", store, **limits)) as rest:
        yield rest


def caller_at(rest: Rest, address: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(rest.app, raise_app_exceptions=False, client=(address, 1))
    return httpx.AsyncClient(transport=transport, base_url="http://test/v1")


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@settings(max_examples=200, deadline=None)
@given(before=COUNTS, now=COUNTS, part=st.floats(0, 1, exclude_max=True), per_minute=st.integers(1, 10_000))
def test_after_the_wait_that_is_told_there_is_room_and_not_long_before(
    before: int, now: int, part: float, per_minute: int
) -> None:
    seen = Seen(before, now, part)

    def room_after(seconds: float) -> bool:
        at = part + seconds / 60
        later = Seen(before, now, at) if at < 1 else Seen(now, 0, at - 1) if at < 2 else Seen(0, 0, 0)
        return later.rate < per_minute

    wait = seen.wait_seconds(per_minute)
    assert (wait == 0) == room_after(0)
    assert 0 <= wait <= 120
    assert room_after(wait + 0.001)
    assert wait <= 1 or not room_after(wait - 1.001)


async def test_a_key_may_ask_so_often_and_another_is_not_hurt_by_it(rest: Rest) -> None:
    other = await rest.key("other", "viewer")
    answers = [await rest.http.get("/federations") for _ in range(30)]
    statuses = [each.status_code for each in answers]
    assert (statuses[0], statuses[-1]) == (200, 429)
    assert "more than 20 requests of this key" in problem(answers[-1], 429, "too-many-requests")
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 61
    assert (await rest.http.get("/federations", headers=other)).status_code == 200


async def test_a_flood_of_one_key_does_not_reach_the_database(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(30):
        await rest.http.get("/federations")

    def never() -> None:
        raise AssertionError("the database was asked")

    monkeypatch.setattr(type(rest.context.database), "snapshot", lambda _: never())
    assert (await rest.http.get("/federations")).status_code == 429


async def test_replicas_count_together_and_go_on_without_redis(redis_url: str) -> None:
    client = redis.asyncio.Redis.from_url(redis_url)
    await client.flushdb()
    one, other = Rates(client), Rates(client)
    waits = [await each.take("x", 10) for _ in range(8) for each in (one, other)]
    assert waits.count(0) >= 10
    assert all(waits[-4:])
    assert await other.take("y", 10) == 0
    assert all([0 < await client.ttl(name) <= 120 for name in await client.keys("fedafd:rates:*")])
    await client.aclose()
    away = redis.asyncio.Redis.from_url("redis://127.0.0.1:1/0")
    alone = Rates(away)
    waits = [await alone.take("x", 10) for _ in range(12)]
    assert (waits[:10], min(waits[10:]) > 0) == ([0] * 10, True)
    await away.aclose()


async def test_the_address_is_the_forwarded_one_where_the_proxy_is_trusted_alone(rest: Rest) -> None:
    async def fail(at: str, told: str) -> int:
        async with caller_at(rest, at) as http:
            headers = bearer("wrong") | {"X-Forwarded-For": told}
            return (await http.get("/federations", headers=headers)).status_code

    # Behind the proxy each address has its own count, and what a caller writes before the proxy does is not believed.
    assert [await fail("10.1.2.3", f"1.1.1.{n}, 203.0.113.7") for n in range(6)] == [401] * 4 + [429] * 2
    assert await fail("10.1.2.3", "203.0.113.8") == 401
    # From anywhere else the header is nothing.
    assert [await fail("192.0.2.1", f"198.51.100.{n}") for n in range(6)] == [401] * 4 + [429] * 2


async def test_a_key_that_ended_is_refused_from_wherever_it_comes_and_the_audit_names_it(rest: Rest) -> None:
    secret = (await rest.key("former", "viewer"))["Authorization"].removeprefix("Bearer ")
    await rest.http.delete("/api-keys/former")
    statuses = []
    for number in range(8):
        async with caller_at(rest, f"192.0.2.{number}") as http:
            statuses.append((await http.get("/federations", headers=bearer(secret))).status_code)
    assert statuses == [401] * 4 + [429] * 4
    await rest.context.failed_logins.write(rest.context.database)
    told = [each for each in (await rest.http.get("/events")).json()["items"] if each["kind"] == "login.failed"]
    # What came after the writer had come by, which it does every few seconds, is told a minute later.
    assert [1 <= each["data"]["count"] <= 8 for each in told if each["actor"] == "key:former"] == [True]
    assert secret not in str(told)


async def test_a_session_counts_as_its_key(rest: Rest) -> None:
    async with caller_at(rest, "127.0.0.1") as http:
        assert (await http.post("http://test/login", data={"key": KEY})).status_code == 303
        statuses = [(await http.get("http://test/")).status_code for _ in range(25)]
    assert (statuses[0], statuses[-1]) == (200, 429)


@pytest.mark.parametrize("given", ["somewhere", "10.0.0.1/8", "10.0.0.0/8,*"])
def test_a_proxy_that_is_no_address_is_refused_by_name(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDAFD_CONTROL_PLANE_DATABASE_URL", "sqlite:////tmp/none.db")
    monkeypatch.setenv("FEDAFD_CONTROL_PLANE_STORE__URL", "/tmp/none")
    monkeypatch.setenv("FEDAFD_CONTROL_PLANE_TRUSTED_PROXIES", given)
    with pytest.raises(ConfigurationError, match="FEDAFD_CONTROL_PLANE_TRUSTED_PROXIES: .*such as 10.0.0.7"):
        load_process_settings(ControlPlaneSettings)
