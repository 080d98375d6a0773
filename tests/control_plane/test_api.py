"""REST as an operator meets it: a real application on SQLite and on PostgreSQL, with a folder as store."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from fedafd.control_plane.app import create_app
from fedafd.control_plane.settings import ControlPlaneSettings, load_settings
from fedafd.datasets import load_public_data, write_public_set
from fedafd.domain.errors import ConfigurationError
from fedafd.persistence.migrate import migrate
from fedafd.storage import StoreSettings

KEY = "fedafd-key.test"
FEDERATION = {"name": "trial", "preset": "small"}


@pytest.fixture
async def api(database_url: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    await asyncio.to_thread(migrate, database_url)
    settings = ControlPlaneSettings(
        database_url=database_url,  # type: ignore[arg-type]
        store=StoreSettings(url=str(tmp_path / "store")),
        admin_key=KEY,  # type: ignore[arg-type]
    )
    app = create_app(settings)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {KEY}"}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test/v1", headers=headers) as client,
    ):
        yield client


def problem(response: httpx.Response, status: int, code: str) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["type"] == f"urn:fedafd:error:{code}"
    return str(body["detail"])


async def test_without_a_key_nothing_is_told(api: httpx.AsyncClient) -> None:
    problem(await api.get("/federations", headers={"Authorization": ""}), 401, "unauthenticated")
    detail = problem(await api.get("/federations", headers={"Authorization": "Bearer wrong"}), 401, "unauthenticated")
    assert "not known" in detail


async def test_a_federation_is_created_once(api: httpx.AsyncClient) -> None:
    assert (await api.post("/federations", json=FEDERATION)).status_code == 201
    assert "choose another name" in problem(await api.post("/federations", json=FEDERATION), 409, "conflict")
    assert [f["name"] for f in (await api.get("/federations")).json()["items"]] == ["trial"]


async def test_a_wrong_configuration_names_the_key_and_what_is_allowed(api: httpx.AsyncClient) -> None:
    wrong = FEDERATION | {"client": {"locl_epochs": 3}}
    detail = problem(await api.post("/federations", json=wrong), 422, "invalid-configuration")
    assert "client.locl_epochs: unknown key" in detail
    assert "local_epochs" in detail
    wrong = FEDERATION | {"distillation": {"temperature": -1}}
    detail = problem(await api.post("/federations", json=wrong), 422, "invalid-configuration")
    assert "distillation.temperature" in detail


async def test_an_unknown_federation_is_not_found(api: httpx.AsyncClient) -> None:
    for path in ("", "/public-set", "/clients", "/rounds", "/models", "/events"):
        assert "nowhere" in problem(await api.get(f"/federations/nowhere{path}"), 404, "not-found")


async def test_a_round_needs_a_public_set(api: httpx.AsyncClient) -> None:
    await api.post("/federations", json=FEDERATION)
    detail = problem(await api.post("/federations/trial/rounds", json={"count": 1}), 409, "conflict")
    assert "public-set push" in detail
    problem(await api.post("/federations/trial/rounds", json={"count": 0}), 422, "invalid-request")


async def test_rounds_are_queued_by_number_and_can_be_cancelled(api: httpx.AsyncClient, tmp_path: Path) -> None:
    await _with_public_set(api, tmp_path)
    queued = await api.post("/federations/trial/rounds", json={"count": 2})
    assert [r["number"] for r in queued.json()["items"]] == [1, 2]
    cancelled = await api.post("/federations/trial/rounds/1/cancel")
    assert cancelled.json()["state"] == "cancelled"
    problem(await api.post("/federations/trial/rounds/1/cancel"), 409, "round-closed")
    kinds = [e["kind"] for e in (await api.get("/federations/trial/events")).json()["items"]]
    assert kinds == ["federation.created", "public_set.changed", "rounds.queued", "round.state_changed"]


async def test_a_manifest_whose_shards_are_missing_is_refused(api: httpx.AsyncClient, tmp_path: Path) -> None:
    await api.post("/federations", json=FEDERATION)
    manifest = _public_set(tmp_path)
    answer = await api.put("/federations/trial/public-set", content=manifest)
    assert "train-00000.parquet" in problem(answer, 409, "conflict")
    answer = await api.put("/federations/trial/public-set", content=b'{"shards": []}')
    assert "shards" in problem(answer, 422, "invalid-data")


async def test_a_damaged_shard_is_refused(api: httpx.AsyncClient) -> None:
    await api.post("/federations", json=FEDERATION)
    sha256 = hashlib.sha256(b"right").hexdigest()
    answer = await api.put(f"/federations/trial/public-set/shards/{sha256}", content=b"wrong")
    assert "send it again" in problem(answer, 422, "invalid-upload")


async def test_a_client_is_invited_with_a_token_and_revoked_once(api: httpx.AsyncClient) -> None:
    await api.post("/federations", json=FEDERATION)
    invited = await api.post("/federations/trial/clients", json={"name": "north", "kind": "image"})
    assert invited.json()["enrolment_token"].startswith("fedafd-enrol.")
    listed = (await api.get("/federations/trial/clients")).json()["items"]
    assert [(c["name"], c["state"]) for c in listed] == [("north", "invited")]
    assert "enrolment_token" not in listed[0]
    assert (await api.delete("/federations/trial/clients/north")).json()["state"] == "revoked"
    problem(await api.delete("/federations/trial/clients/north"), 409, "conflict")
    problem(await api.post("/federations/trial/clients", json={"name": "x", "kind": "sound"}), 422, "invalid-request")


async def test_there_is_no_model_before_the_first_round(api: httpx.AsyncClient) -> None:
    await api.post("/federations", json=FEDERATION)
    assert "first completed round" in problem(await api.get("/federations/trial/models/current"), 404, "not-found")
    problem(await api.get("/federations/trial/models/latest"), 422, "invalid-request")


async def test_probes_need_no_key(api: httpx.AsyncClient) -> None:
    for path in ("healthz", "readyz", "metrics"):
        assert (await api.get(f"http://test/{path}", headers={"Authorization": ""})).status_code == 200


def test_a_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDAFD_CONTROL_PLANE_DATABASE_URL", raising=False)
    with pytest.raises(ConfigurationError, match="FEDAFD_CONTROL_PLANE_DATABASE_URL"):
        load_settings()


def _public_set(tmp_path: Path) -> bytes:
    data = load_public_data("shapes", None, {"num_train": 8, "num_val": 4, "num_test": 4})
    return write_public_set(data, tmp_path / "public").to_bytes()


async def _with_public_set(api: httpx.AsyncClient, tmp_path: Path) -> None:
    await api.post("/federations", json=FEDERATION)
    manifest = _public_set(tmp_path)
    for path in (tmp_path / "public").glob("*.parquet"):
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        content = path.read_bytes()
        assert (await api.put(f"/federations/trial/public-set/shards/{sha256}", content=content)).status_code == 204
    assert (await api.put("/federations/trial/public-set", content=manifest)).status_code == 200
