"""Who may do what: every operation of the API, each role, nobody, and a client."""

from __future__ import annotations

from pathlib import Path

import httpx
from tests.control_plane.rest import Rest

from fedafd.control_plane.app import create_app
from fedafd.control_plane.settings import ControlPlaneSettings
from fedafd.storage import StoreSettings

ROLES = ["viewer", "operator", "admin"]
F, C = "/federations/{federation}", "/federations/{federation}/clients/{client}"
LEAST = {
    "viewer": [
        ("GET", "/federations"),
        ("GET", F),
        ("GET", f"{F}/public-set"),
        ("GET", f"{F}/clients"),
        ("GET", C),
        ("GET", f"{C}/participations"),
        ("GET", f"{C}/data"),
        ("GET", f"{F}/rounds"),
        ("GET", f"{F}/rounds/{{number}}"),
        ("GET", f"{F}/models"),
        ("GET", f"{F}/models/{{version}}"),
        ("GET", f"{F}/models/{{version}}/archive"),
        ("GET", f"{F}/models/{{version}}/files/{{path}}"),
        ("POST", f"{F}/models/{{version}}/tickets"),
        ("POST", f"{F}/models/{{version}}/search"),
        ("GET", f"{F}/events"),
        ("GET", "/drain"),
        ("GET", "/status"),
    ],
    "operator": [
        ("POST", "/federations"),
        ("PUT", F),
        ("PUT", f"{F}/public-set"),
        ("PUT", f"{F}/public-set/shards/{{sha256}}"),
        ("POST", f"{F}/clients"),
        ("POST", f"{C}/invitations"),
        ("PUT", f"{C}/exclusion"),
        ("DELETE", f"{C}/exclusion"),
        ("DELETE", C),
        ("POST", f"{F}/rounds"),
        ("POST", f"{F}/rounds/{{number}}/cancel"),
        ("POST", f"{F}/models/{{version}}/promote"),
        ("POST", f"{F}/models/rollback"),
    ],
    "admin": [
        ("DELETE", f"{C}/data"),
        ("GET", f"{C}/models"),
        ("GET", f"{C}/models/{{version}}"),
        ("GET", f"{C}/models/{{version}}/archive"),
        ("GET", f"{C}/models/{{version}}/files/{{path}}"),
        ("POST", f"{C}/models/{{version}}/tickets"),
        ("GET", "/events"),
        ("POST", "/api-keys"),
        ("GET", "/api-keys"),
        ("GET", "/api-keys/{name}"),
        ("DELETE", "/api-keys/{name}"),
        ("POST", "/api-keys/{name}/rotate"),
        ("PUT", "/drain"),
        ("DELETE", "/drain"),
        ("DELETE", F),
    ],
}
VALUES = {"federation": "trial", "client": "north", "number": "1", "version": "1", "path": "x", "name": "nobody"}
BODIES = {
    "/federations": {"name": "trial"},
    F: {"name": "trial"},
    f"{F}/clients": {"name": "south", "kind": "image"},
    f"{F}/rounds": {"count": 1},
    f"{C}/exclusion": {"reason": "test"},
    "/drain": {"reason": "test"},
    "/api-keys": {"name": "other", "role": "viewer"},
    "/api-keys/{name}/rotate": {},
}
OPERATIONS = [(role, method, path) for role, operations in LEAST.items() for method, path in operations]


def test_the_table_names_every_operation(tmp_path: Path) -> None:
    store = StoreSettings(url=str(tmp_path))
    settings = ControlPlaneSettings(database_url=f"sqlite:///{tmp_path}/none", store=store)
    paths = create_app(settings).openapi()["paths"]
    there = {
        (method.upper(), path.removeprefix("/v1"))
        for path, operations in paths.items()
        for method in operations
        if path.startswith("/v1/")
    }
    assert {(method, path) for _, method, path in OPERATIONS} == there


async def ask(rest: Rest, method: str, path: str, headers: dict[str, str]) -> httpx.Response:
    url = path.format(**VALUES, sha256="0" * 64)
    body = BODIES.get(path) if method in ("POST", "PUT") else None
    return await rest.http.request(method, url, json=body, headers=headers)


async def test_each_role_may_do_what_its_rank_allows_and_no_more(rest: Rest) -> None:
    await rest.federation()
    await rest.enrol("north")
    keys = {role: await rest.key(f"key-{role}", role) for role in ROLES}
    # The operations that change least come first, so that each finds what it needs as it was.
    for least, method, path in OPERATIONS:
        for role in ROLES:
            answer = await ask(rest, method, path, keys[role])
            allowed = ROLES.index(role) >= ROLES.index(least)
            assert (answer.status_code == 403) != allowed, (role, method, path, answer.text)
            assert answer.status_code < 500, answer.text
            if not allowed:
                assert f"role {least}" in answer.text or "an admin's key" in answer.text


async def test_nobody_may_do_anything(rest: Rest) -> None:
    await rest.federation()
    for _, method, path in OPERATIONS:
        for given in ("", "Bearer ", "Bearer wrong", "Basic dXNlcjpwYXNz"):
            answer = await ask(rest, method, path, {"Authorization": given})
            assert answer.status_code == 401, (method, path, given)
            assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_client_sees_its_own_models_and_nothing_else(rest: Rest) -> None:
    await rest.federation()
    await rest.federation("other")
    own = await rest.enrol("north")
    await rest.enrol("south")
    await rest.enrol("north", "other")
    for _, method, path in OPERATIONS:
        expected = 403 if not path.startswith(f"{C}/models") else None
        answer = await ask(rest, method, path, own)
        assert expected in (None, answer.status_code), (method, path)
    assert (await rest.http.get("/federations/trial/clients/north/models", headers=own)).status_code == 200
    for foreign in ("trial/clients/south", "other/clients/north", "trial/clients/nobody"):
        assert (await rest.http.get(f"/federations/{foreign}/models", headers=own)).status_code == 403


async def test_a_key_is_shown_once_and_ends_when_revoked(rest: Rest) -> None:
    headers = await rest.key("board", "viewer")
    assert (await rest.http.get("/federations", headers=headers)).status_code == 200
    await rest.context.key_uses.write(rest.context.database)
    listed = (await rest.http.get("/api-keys")).json()["items"]
    assert [(key["name"], key["role"], key["active"]) for key in listed] == [
        ("admin", "admin", True),
        ("board", "viewer", True),
    ]
    assert "secret" not in listed[1]
    assert listed[1]["last_used_at"] is not None
    assert (await rest.http.delete("/api-keys/board")).json()["active"] is False
    assert (await rest.http.get("/federations", headers=headers)).status_code == 401
    assert (await rest.http.delete("/api-keys/board")).status_code == 409
    assert (await rest.http.post("/api-keys", json={"name": "board", "role": "viewer"})).status_code == 409
    kinds = [event["kind"] for event in (await rest.http.get("/events")).json()["items"]]
    assert kinds == ["api_key.created", "api_key.revoked"]


async def test_the_last_admin_cannot_lock_everybody_out(rest: Rest) -> None:
    assert "last admin" in (await rest.http.delete("/api-keys/admin")).json()["detail"]
    second = await rest.key("second", "admin")
    assert (await rest.http.delete("/api-keys/admin")).status_code == 200
    assert (await rest.http.get("/federations")).status_code == 401
    assert (await rest.http.delete("/api-keys/second", headers=second)).status_code == 409


async def test_an_expired_key_is_refused(rest: Rest) -> None:
    from datetime import timedelta

    from fedafd.persistence.api_key_repository import get_key
    from fedafd.persistence.models import utc_now

    made = await rest.http.post("/api-keys", json={"name": "brief", "role": "viewer", "expires_in_days": 1})
    headers = {"Authorization": f"Bearer {made.json()['secret']}"}
    assert (await rest.http.get("/federations", headers=headers)).status_code == 200
    async with rest.context.database.transaction() as session:
        (await get_key(session, "brief")).expires_at = utc_now() - timedelta(seconds=1)
    assert (await rest.http.get("/federations", headers=headers)).status_code == 401
    assert (await rest.http.get("/api-keys/brief")).json()["active"] is False
