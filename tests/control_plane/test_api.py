"""REST as an operator meets it: a real application on SQLite and on PostgreSQL, with a folder as store."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx
import pytest
from tests.control_plane.rest import FEDERATION, Rest, problem

from fedafd.control_plane.settings import load_settings
from fedafd.datasets import load_public_data, write_public_set
from fedafd.datasets.samples import PairSplit
from fedafd.domain.errors import ConfigurationError


@pytest.fixture
def api(rest: Rest) -> httpx.AsyncClient:
    return rest.http


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


async def test_rounds_are_queued_by_number_and_can_be_cancelled(
    rest: Rest, api: httpx.AsyncClient, tmp_path: Path
) -> None:
    await api.post("/federations", json=FEDERATION)
    await rest.public_set(tmp_path)
    queued = await api.post("/federations/trial/rounds", json={"count": 2})
    assert [r["number"] for r in queued.json()["items"]] == [1, 2]
    cancelled = await api.post("/federations/trial/rounds/1/cancel")
    assert cancelled.json()["state"] == "cancelled"
    problem(await api.post("/federations/trial/rounds/1/cancel"), 409, "round-closed")
    kinds = [e["kind"] for e in (await api.get("/federations/trial/events")).json()["items"]]
    kinds = [kind for kind in kinds if kind != "public_set.shard_received"]  # as many as it has shards
    assert kinds == ["federation.created", "public_set.changed", "rounds.queued", "round.state_changed"]


async def test_a_manifest_whose_shards_are_missing_is_refused(api: httpx.AsyncClient, tmp_path: Path) -> None:
    await api.post("/federations", json=FEDERATION)
    manifest = _public_set(tmp_path)
    answer = await api.put("/federations/trial/public-set", content=manifest)
    assert "train-00000.parquet" in problem(answer, 409, "conflict")
    answer = await api.put("/federations/trial/public-set", content=b'{"shards": []}')
    assert "shards" in problem(answer, 422, "invalid-data")


async def test_a_public_set_may_hold_shards_of_equal_content(rest: Rest, tmp_path: Path) -> None:
    """Its val split is its test split, as when a site has held out but once."""
    await rest.federation()
    data = load_public_data("shapes", None, {"num_train": 8, "num_val": 4, "num_test": 4})
    twice = data["val"]
    twice = PairSplit(twice.images, twice.captions, tuple(f"s{n}" for n in range(4)))
    manifest = write_public_set({"train": data["train"], "val": twice, "test": twice}, tmp_path)
    train, val, test = manifest.shards
    assert val.sha256 == test.sha256
    for shard in manifest.shards:
        content = (tmp_path / shard.name).read_bytes()
        sent = await rest.http.put(f"/federations/trial/public-set/shards/{shard.sha256}", content=content)
        assert sent.status_code == 204, sent.text
    made = await rest.http.put("/federations/trial/public-set", content=manifest.to_bytes())
    assert made.status_code == 200, made.text
    assert made.json()["num_samples"] == {"train": 8, "val": 4, "test": 4}
    store = rest.context.store
    assert all(store.stat(f"public-sets/{manifest.sha256}/{shard.name}") for shard in (train, val, test))
    assert not store.stat(f"public-sets/incoming/trial/{val.sha256}")


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


async def test_a_configuration_changes_only_between_rounds(rest: Rest, tmp_path: Path) -> None:
    api = rest.http
    await rest.federation()
    await rest.public_set(tmp_path)
    first = await api.get("/federations/trial")
    assert first.headers["etag"] == '"1"'
    new = FEDERATION | {"seed": 7}
    changed = await api.put("/federations/trial", json=new, headers={"If-Match": '"1"'})
    assert (changed.json()["config"]["seed"], changed.json()["config_version"]) == (7, 2)
    stale = await api.put("/federations/trial", json=FEDERATION, headers={"If-Match": '"1"'})
    assert "version 2, not 1" in problem(stale, 409, "conflict")
    assert "create another" in problem(await api.put("/federations/trial", json=new | {"name": "b"}), 409, "conflict")
    await api.post("/federations/trial/rounds", json={"count": 1})
    assert "round 1 is open" in problem(await api.put("/federations/trial", json=FEDERATION), 409, "conflict")
    await api.post("/federations/trial/rounds/1/cancel")
    assert (await api.put("/federations/trial", json=FEDERATION)).json()["config_version"] == 3
    assert (await api.put("/federations/trial", json=FEDERATION)).json()["config_version"] == 3


async def test_what_shapes_a_model_stays_once_there_is_one(rest: Rest) -> None:
    await rest.federation()
    wider = FEDERATION | {"embedding_dim": 128}
    assert (await rest.http.put("/federations/trial", json=wider)).status_code == 200
    await rest.publish(1)
    answer = await rest.http.put("/federations/trial", json=wider | {"embedding_dim": 64})
    assert "embedding_dim cannot change" in problem(answer, 409, "conflict")
    assert (await rest.http.put("/federations/trial", json=wider | {"seed": 3})).status_code == 200


async def test_a_client_is_invited_again_under_its_name(rest: Rest) -> None:
    await rest.federation()
    credential = await rest.enrol("north")
    assert (await rest.http.get("/federations/trial/clients/north/models", headers=credential)).status_code == 200
    taken = await rest.http.post("/federations/trial/clients", json={"name": "north", "kind": "text"})
    assert "invite it again" in problem(taken, 409, "conflict")
    again = await rest.http.post("/federations/trial/clients/north/invitations")
    assert (again.status_code, again.json()["state"]) == (201, "invited")
    refused = await rest.http.get("/federations/trial/clients/north/models", headers=credential)
    problem(refused, 401, "unauthenticated")
    await rest.http.delete("/federations/trial/clients/north")
    assert (await rest.http.post("/federations/trial/clients/north/invitations")).json()["state"] == "invited"


@pytest.mark.parametrize("value", ["\u0000", "\ud800", float("inf")], ids=["NUL", "half a surrogate", "infinity"])
async def test_what_a_database_cannot_hold_is_refused(rest: Rest, value: object) -> None:
    import json

    body = json.dumps(FEDERATION | {"image_encoder": {"architecture": "resnet", "options": {"x": value}}})
    answer = await rest.http.post("/federations", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    answer = await rest.http.put("/drain", json={"reason": "x\x00y"})
    assert answer.status_code in (200, 422), answer.text  # SQLite holds it, PostgreSQL does not


async def test_lists_come_in_pages_that_hold_everything_once(rest: Rest) -> None:
    names = [f"f{number}" for number in range(5)]
    for name in names:
        await rest.federation(name)
    found, cursor, pages = [], None, 0
    while cursor is not None or pages == 0:
        page = (
            await rest.http.get("/federations", params={"limit": 2} | ({"cursor": cursor} if cursor else {}))
        ).json()
        found += [item["name"] for item in page["items"]]
        cursor, pages = page["next_cursor"], pages + 1
    assert (found, pages) == (names, 3)
    whole = (await rest.http.get("/federations", params={"limit": 5})).json()
    assert whole["next_cursor"] is None


async def test_a_cursor_that_is_none_is_refused(rest: Rest) -> None:
    await rest.federation()
    for path in ("/federations", "/federations/trial/rounds", "/federations/trial/events", "/api-keys"):
        for cursor in ("", "!", "x", "abc", "é", "MQ=", "-1", "99999999999999999999"):
            problem(await rest.http.get(path, params={"cursor": cursor}), 422, "invalid-request")
    too_large = "OTk5OTk5OTk5OTk5OTk5OTk5OTk5"
    for path in ("/federations/trial/rounds", "/federations/trial/events"):
        problem(await rest.http.get(path, params={"cursor": too_large}), 422, "invalid-request")
