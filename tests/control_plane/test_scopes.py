"""A key for some federations learns nothing of the others: every operation of the API, and every page."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route
from tests.control_plane.dashboard.browsing import stranger
from tests.control_plane.rest import Rest, in_process, listening, problem, settings_for

from fedafd.control_plane.dashboard.pages import _PAGES
from fedafd.persistence.api_key_repository import get_key
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.models import utc_now
from fedafd.storage import StoreSettings

OWN, FOREIGN, ABSENT = "trial", "hidden-one", "hidden-two"
"""The key's federation, one that it must not learn of, and one that is not there."""
VALUES = {"client": "north", "number": "1", "version": "1", "path": "config.json", "name": "nobody", "sha256": "0" * 64}
BODIES: dict[str, Any] = {"name": "south", "kind": "text", "count": 1, "reason": "test", "role": "viewer"}


@pytest.fixture
async def rest(tmp_path: Path) -> AsyncIterator[Rest]:
    url = f"sqlite:///{tmp_path}/scopes.db"
    async with in_process(settings_for(url, StoreSettings(url=str(tmp_path / "store")))) as rest:
        for name in (OWN, FOREIGN):
            await rest.federation(name)
            await rest.enrol("north", name)
        yield rest


async def scoped(rest: Rest, role: str, name: str = "") -> str:
    wanted = {"name": name or f"of-{role}", "role": role, "federations": [OWN]}
    made = await rest.http.post("/api-keys", json=wanted)
    assert (made.status_code, made.json()["federations"]) == (201, [OWN])
    return str(made.json()["secret"])


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def operations(rest: Rest) -> list[tuple[str, str, dict[str, Any]]]:
    """Every operation that the document names, with a body of fields that it knows."""
    document = rest.app.openapi()
    found = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            schema = content.get("schema", {})
            schema = next(iter(schema.get("anyOf", [schema])))
            known = document["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], {})
            found.append((method, path, {k: v for k, v in BODIES.items() if k in known.get("properties", ())}))
    return [each for each in found if each[1].startswith("/v1/")]


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
async def test_no_operation_tells_a_foreign_federation_from_one_that_is_not_there(rest: Rest, role: str) -> None:
    headers, tried = bearer(await scoped(rest, role)), 0
    before = (await rest.http.get(f"/federations/{FOREIGN}/events")).text
    for method, path, body in operations(rest):
        path = path.removeprefix("/v1")
        told = []
        for name in (FOREIGN, ABSENT):
            url = path.format(**VALUES, federation=name)
            answer = await rest.http.request(method, url, json=body or None, headers=headers)
            told.append((answer.status_code, answer.text.replace(name, "?")))
            if "{federation}" not in path:
                assert FOREIGN not in answer.text, (method, path)
                break
            assert answer.status_code == 404, (method, path, answer.text)
        assert len(set(told)) == 1, (method, path, told)
        tried += 1
    assert tried > 40
    assert (await rest.http.get(f"/federations/{FOREIGN}/events")).text == before


async def test_what_concerns_no_single_federation_is_told_of_the_keys_own_or_refused(rest: Rest) -> None:
    headers = bearer(await scoped(rest, "admin"))
    for method, path, body in operations(rest):
        path = path.removeprefix("/v1")
        if "{federation}" in path:
            continue
        answer = await rest.http.request(method, path.format(**VALUES), json=body or None, headers=headers)
        if (method, path) in {("get", "/federations"), ("get", "/status"), ("get", "/drain")}:
            assert answer.status_code == 200
        else:
            assert "needs an API key for all federations; yours is for trial" in problem(answer, 403, "forbidden")
    listed = (await rest.http.get("/federations", params={"limit": 1}, headers=headers)).json()
    assert ([each["name"] for each in listed["items"]], listed["next_cursor"]) == ([OWN], None)
    assert {each["federation"] for each in (await rest.http.get("/status", headers=headers)).json()["findings"]} >= {
        OWN
    }


async def test_what_runs_elsewhere_is_not_told_of_the_drain(rest: Rest) -> None:
    await rest.publish(2)
    async with rest.context.database.transaction() as session:
        from sqlalchemy import update

        from fedafd.persistence.models import RoundRow

        await session.execute(update(RoundRow).values(state="preparing"))
    running = (await rest.http.get("/drain")).json()["running"]
    await rest.federation("third")
    other = await rest.http.post("/api-keys", json={"name": "third", "role": "viewer", "federations": ["third"]})
    of_third = (await rest.http.get("/drain", headers=bearer(other.json()["secret"]))).json()["running"]
    of_own = (await rest.http.get("/drain", headers=bearer(await scoped(rest, "viewer")))).json()["running"]
    assert (of_own, of_third, len(running)) == (running, [], 2)


async def test_a_role_is_worth_in_its_federation_what_it_is_worth_anywhere(rest: Rest) -> None:
    viewer, operator = bearer(await scoped(rest, "viewer")), bearer(await scoped(rest, "operator"))
    invited = {"name": "south", "kind": "text"}
    problem(await rest.http.post(f"/federations/{OWN}/clients", json=invited, headers=viewer), 403, "forbidden")
    assert (await rest.http.post(f"/federations/{OWN}/clients", json=invited, headers=operator)).status_code == 201


async def test_no_page_tells_a_foreign_federation_from_one_that_is_not_there(rest: Rest) -> None:
    visit, tried = stranger(rest), 0
    assert (await visit.http.post("/login", data={"key": await scoped(rest, "admin")})).status_code == 303
    token = await visit.token()
    pages = [route for page in _PAGES for route in page.router.routes if isinstance(route, Route)]
    for route in pages:
        method = "POST" if "POST" in (route.methods or ()) else "GET"
        of_one = "{federation}" in route.path
        if route.path in ("/logout", "/live") or (not of_one and "{" in route.path):
            continue
        told = []
        for name in (FOREIGN, ABSENT):
            url = re.sub(r":\w+}", "}", route.path).format(**VALUES, federation=name)
            answer = await visit.http.request(method, url, data={"token": token} if method == "POST" else None)
            told.append((answer.status_code, answer.text.replace(name, "?")))
            if of_one:
                assert answer.status_code == 404, (method, route.path, answer.text)
            else:
                assert FOREIGN not in answer.text, route.path
        if of_one:
            assert len(set(told)) == 1, route.path
            tried += 1
    assert tried > 10
    assert OWN in await visit.page("/")
    await visit.page("/keys", 403)
    assert (await visit.http.get("/live", params={"federation": FOREIGN})).status_code == 404
    assert (await visit.send("/keys", name="more", role="admin")).status_code == 403


async def test_a_stream_of_events_holds_what_is_of_the_keys_federation(tmp_path: Path) -> None:
    settings = settings_for(f"sqlite:///{tmp_path}/live.db", StoreSettings(url=str(tmp_path / "s")))
    async with listening(settings) as live:
        for name in (OWN, FOREIGN):
            await live.federation(name)
        headers = bearer(await scoped(live, "admin")) | {"Accept": "text/event-stream"}
        problem(await live.http.get("/events", headers=headers), 403, "forbidden")
        problem(await live.http.get(f"/federations/{FOREIGN}/events", headers=headers), 404, "not-found")
        told = ""
        url = f"/federations/{OWN}/events?cursor=end&progress=true"
        async with live.http.stream("GET", url, headers=headers) as answer, asyncio.timeout(30):
            for name in (FOREIGN, OWN):
                await live.http.post(f"/federations/{name}/clients", json={"name": f"at-{name}", "kind": "text"})
            async for line in answer.aiter_lines():
                told += line
                if f"at-{OWN}" in told:
                    break
        assert FOREIGN not in told


async def test_an_event_that_concerns_none_is_not_told_of_a_keys_federation(rest: Rest) -> None:
    headers = bearer(await scoped(rest, "viewer"))
    async with rest.context.database.transaction() as session:
        record_event(session, "test.elsewhere", federation_id=FOREIGN, actor="test")
        record_event(session, "test.nowhere", federation_id=None, actor="test")
    told = (await rest.http.get(f"/federations/{OWN}/events", headers=headers)).json()["items"]
    assert {each["federation"] for each in told} == {OWN}


async def test_a_federation_of_a_later_time_is_not_opened_by_its_name(rest: Rest) -> None:
    problem(
        await rest.http.post("/api-keys", json={"name": "early", "role": "viewer", "federations": [ABSENT]}),
        404,
        "not-found",
    )
    headers = bearer(await scoped(rest, "admin"))
    assert (await rest.http.delete(f"/federations/{OWN}", headers=headers)).status_code == 200
    async with rest.context.database.transaction() as session:
        from sqlalchemy import delete

        from fedafd.persistence.models import RemovalRow

        await session.execute(delete(RemovalRow))
    await rest.federation(OWN)
    problem(await rest.http.get(f"/federations/{OWN}", headers=headers), 404, "not-found")
    assert (await rest.http.get("/api-keys/of-admin")).json()["federations"] == []


@pytest.mark.parametrize("federations", [[], ["Not a name"], ["x"] * 101])
async def test_federations_that_cannot_be_are_refused(rest: Rest, federations: list[str]) -> None:
    wanted = {"name": "odd", "role": "viewer", "federations": federations}
    problem(await rest.http.post("/api-keys", json=wanted), 422, "invalid-request")


async def test_an_admin_of_some_federations_is_not_the_last_one_who_is_kept(rest: Rest) -> None:
    await scoped(rest, "admin")
    assert "last admin" in problem(await rest.http.delete("/api-keys/admin"), 409, "conflict")
    assert (await rest.http.delete("/api-keys/of-admin")).status_code == 200


async def test_a_rotated_key_opens_with_both_secrets_until_the_overlap_is_over(rest: Rest) -> None:
    old = await scoped(rest, "admin")
    visit = stranger(rest)
    await visit.http.post("/login", data={"key": old})
    made = (await rest.http.post("/api-keys/of-admin/rotate", json={"overlap_hours": 1})).json()
    url = f"/federations/{OWN}"
    for secret in (old, made["secret"]):
        assert (await rest.http.get(url, headers=bearer(secret))).status_code == 200
        assert (await rest.http.get(f"/federations/{FOREIGN}", headers=bearer(secret))).status_code == 404
    assert (await visit.http.get("/")).status_code == 200
    await rest.context.key_uses.write(rest.context.database)
    told = (await rest.http.get("/api-keys/of-admin")).json()
    assert told["previous_secret_until"] and told["previous_secret_used_at"] and told["last_used_at"]
    async with rest.context.database.transaction() as session:
        (await get_key(session, "of-admin")).previous_until = utc_now() - timedelta(seconds=1)
    assert (await rest.http.get(url, headers=bearer(old))).status_code == 401
    assert (await rest.http.get(url, headers=bearer(made["secret"]))).status_code == 200
    assert (await visit.http.get("/")).status_code == 303
    assert (await rest.http.get("/api-keys/of-admin")).json()["previous_secret_until"] is None


async def test_an_overlap_never_prolongs_a_secret(rest: Rest) -> None:
    made = await rest.http.post("/api-keys", json={"name": "brief", "role": "viewer", "expires_in_days": 1})
    turned = (await rest.http.post("/api-keys/brief/rotate", json={"overlap_hours": 720})).json()
    assert turned["previous_secret_until"] == made.json()["expires_at"]
    await rest.http.post("/api-keys/brief/rotate", json={})
    for secret in (made.json()["secret"], turned["secret"]):
        assert (await rest.http.get("/federations", headers=bearer(secret))).status_code == 401


async def test_an_admin_may_rotate_its_own_key_with_an_overlap_alone(rest: Rest) -> None:
    own = await rest.key("second", "admin")
    problem(await rest.http.post("/api-keys/second/rotate", json={}, headers=own), 409, "conflict")
    assert (await rest.http.post("/api-keys/second/rotate", json={"overlap_hours": 1}, headers=own)).status_code == 200
    assert (await rest.http.get("/federations", headers=own)).status_code == 200
    assert (await rest.http.delete("/api-keys/second")).status_code == 200
    assert (await rest.http.get("/federations", headers=own)).status_code == 401
