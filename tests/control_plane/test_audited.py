"""Every operation that changes something, or reads a model, leaves an entry in the audit log that names the caller."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import httpx
from tests.control_plane.rest import Rest

from fedafd.datasets import load_public_data, write_public_set

F, C = "/federations/{federation}", "/federations/{federation}/clients/{client}"
SHARD = b"whatever a shard holds"
CALLS: list[tuple[str, str, Any, str]] = [
    ("PUT", f"{F}/public-set/shards/{{sha256}}", SHARD, "public_set.shard_received"),
    ("POST", f"{F}/clients", {"name": "south", "kind": "image"}, "client.invited"),
    ("POST", f"{C}/invitations", None, "client.invited_again"),
    ("PUT", f"{C}/exclusion", {"reason": "test"}, "client.excluded"),
    ("DELETE", f"{C}/exclusion", None, "client.readmitted"),
    ("GET", f"{F}/models/{{version}}/archive", None, "model.read"),
    ("GET", f"{F}/models/{{version}}/files/{{path}}", None, "model.read"),
    ("GET", f"{C}/models/{{version}}", None, "model.read"),
    ("GET", f"{C}/models/{{version}}/archive", None, "model.read"),
    ("GET", f"{C}/models/{{version}}/files/{{path}}", None, "model.read"),
    ("POST", f"{F}/models/rollback", None, "model.rolled_back"),
    ("POST", f"{F}/models/{{version}}/promote", None, "model.promoted"),
    ("POST", f"{F}/rounds", {"count": 1}, "rounds.queued"),
    ("POST", f"{F}/rounds/{{number}}/cancel", None, "round.state_changed"),
    ("PUT", F, {"name": "trial", "preset": "small", "seed": 41}, "federation.config_changed"),
    ("DELETE", f"{C}/data", None, "client.forget_requested"),
    ("DELETE", C, None, "client.revoked"),
    ("PUT", "/drain", {"reason": "test"}, "service.drained"),
    ("DELETE", "/drain", None, "service.resumed"),
    ("POST", "/api-keys", {"name": "other", "role": "viewer"}, "api_key.created"),
    ("POST", "/api-keys/{name}/rotate", {}, "api_key.rotated"),
    ("DELETE", "/api-keys/{name}", None, "api_key.revoked"),
    ("DELETE", F, None, "federation.deleted"),
    ("POST", "/federations", {"name": "trial-2", "preset": "small"}, "federation.created"),
]
ELSEWHERE = {
    ("PUT", f"{F}/public-set"),  # below: it needs what was sent before
    ("POST", f"{F}/models/{{version}}/search"),  # answered by a query worker: tests/control_plane/test_search.py
    # Answered by a store that gives tickets alone: tests/control_plane/test_downloads.py, test_model_reads.py.
    ("POST", f"{F}/models/{{version}}/tickets"),
    ("POST", f"{C}/models/{{version}}/tickets"),
}
READS_NO_MODEL = {("GET", f"{F}/models"), ("GET", f"{F}/models/{{version}}"), ("GET", f"{C}/models")}
"""Lists, numbers and metrics."""
VALUES = {"federation": "trial", "client": "north", "number": "4", "version": "1", "path": "config.json"}
VALUES |= {"name": "other", "sha256": hashlib.sha256(SHARD).hexdigest()}


def test_the_table_names_every_operation_that_changes_or_reads_a_model(rest: Rest) -> None:
    there = {
        (method.upper(), path.removeprefix("/v1"))
        for path, operations in rest.app.openapi()["paths"].items()
        for method in operations
        if path.startswith("/v1/") and (method != "get" or "/models" in path)
    }
    assert {(method, path) for method, path, _, _ in CALLS} | ELSEWHERE | READS_NO_MODEL == there


async def _newest(rest: Rest) -> dict[str, Any]:
    events: list[dict[str, Any]] = (await rest.http.get("/events?limit=200")).json()["items"]
    return events[-1]


async def test_each_call_leaves_its_entry_with_the_caller(rest: Rest, tmp_path: Path) -> None:
    await rest.federation()
    await rest.public_set(tmp_path)
    await rest.enrol("north")
    await rest.publish(3)
    await rest.share("north")
    caller = await rest.key("auditor", "admin")
    for method, path, body, kind in CALLS:
        before = (await _newest(rest))["id"]
        given = {"content": body} if isinstance(body, bytes) else {"json": body}
        url = path.format(**VALUES)
        answer = await rest.http.request(method, url, headers=caller, **({} if body is None else given))
        assert answer.is_success, (method, url, answer.text)
        found = await _newest(rest)
        assert found["id"] > before, (method, url)
        told = (found["kind"], found["actor"], found["address"])
        assert told == (kind, "api-key:auditor", "127.0.0.1"), (method, url)


async def test_a_public_set_leaves_an_entry_for_each_shard_and_one_for_itself(rest: Rest, tmp_path: Path) -> None:
    await rest.federation()
    await rest.public_set(tmp_path)
    manifest = write_public_set(
        load_public_data("shapes", None, {"num_train": 8, "num_val": 4, "num_test": 4}), tmp_path / "again"
    )
    events = (await rest.http.get("/federations/trial/events")).json()["items"]
    received = {each["data"]["sha256"] for each in events if each["kind"] == "public_set.shard_received"}
    assert received == {shard.sha256 for shard in manifest.shards}
    assert (events[-1]["kind"], events[-1]["data"]) == ("public_set.changed", {"sha256": manifest.sha256})


async def test_addresses_are_those_that_a_trusted_proxy_tells_and_for_admins_alone(rest: Rest) -> None:
    await rest.federation()
    told = {"X-Forwarded-For": "203.0.113.7"}
    await rest.http.post("/federations/trial/clients", json={"name": "south", "kind": "image"}, headers=told)
    for role, seen in (("viewer", None), ("operator", None), ("admin", "203.0.113.7")):
        key = await rest.key(f"one-{role}", role)
        for path in ["/federations/trial/events", *(["/events"] if role == "admin" else [])]:
            events = (await rest.http.get(path, headers=key)).json()["items"]
            found = [each["address"] for each in events if each["kind"] == "client.invited"]
            assert found == [seen], (role, path)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(rest.app), base_url="http://test") as browser:
            await browser.post("/login", data={"key": key["Authorization"].removeprefix("Bearer ")})
            page = (await browser.get("/federations/trial/events")).text
        assert ("203.0.113.7" in page, "From where" in page) == (seen is not None,) * 2
