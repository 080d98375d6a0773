"""Public sets that do not come whole: refused before anything of them is put in its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.control_plane.rest import Rest, problem

from fedafd.artifacts.keys import PUBLIC_SETS
from fedafd.datasets import load_public_data, write_public_set
from fedafd.domain.hashing import sha256_of

PATH = "/federations/trial/public-set"


@pytest.fixture
async def pushed(rest: Rest, tmp_path: Path) -> list[dict[str, Any]]:
    """The shards of a manifest, which all have arrived but for the last."""
    data = load_public_data("shapes", None, {"num_train": 4, "num_val": 2, "num_test": 2})
    manifest = write_public_set(data, tmp_path / "public", rows_per_shard=2)
    await rest.federation()
    for shard in manifest.shards[:-1]:
        content = (tmp_path / "public" / shard.name).read_bytes()
        sent = await rest.http.put(f"{PATH}/shards/{shard.sha256}", content=content)
        assert sent.status_code == 204, sent.text
    shards: list[dict[str, Any]] = json.loads(manifest.to_bytes())["shards"]
    return shards


def stored(rest: Rest) -> set[str]:
    return {found.key for found in rest.context.store.list(PUBLIC_SETS)}


async def test_a_shard_that_has_not_arrived_keeps_the_others_where_they_are(
    rest: Rest, pushed: list[dict[str, Any]]
) -> None:
    before = stored(rest)
    answer = await rest.http.put(PATH, json={"version": 1, "shards": pushed})
    assert f"shards {pushed[-1]['name']} have not arrived" in problem(answer, 409, "conflict")
    assert stored(rest) == before


async def test_a_size_that_is_not_the_shard_s_is_refused(
    rest: Rest, pushed: list[dict[str, Any]], tmp_path: Path
) -> None:
    content = (tmp_path / "public" / pushed[-1]["name"]).read_bytes()
    await rest.http.put(f"{PATH}/shards/{sha256_of(content)}", content=content)
    before = stored(rest)
    wrong = [*pushed[:-1], pushed[-1] | {"size_bytes": 7}]
    answer = await rest.http.put(PATH, json={"version": 1, "shards": wrong})
    detail = problem(answer, 422, "invalid-request")
    assert f"shard {pushed[-1]['name']} has {len(content)} bytes, and the manifest says 7" in detail
    assert stored(rest) == before
    assert (await rest.http.put(PATH, json={"version": 1, "shards": pushed})).status_code == 200


async def test_who_knows_the_hashes_of_a_federations_set_does_not_have_it(
    rest: Rest, pushed: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Nor is it told whether another federation has it: its answers are those of a set that nobody has."""
    manifest = {"version": 1, "shards": pushed}
    await rest.federation("other")
    made = await rest.http.post("/api-keys", json={"name": "spy", "role": "operator", "federations": ["other"]})
    operator = {"Authorization": f"Bearer {made.json()['secret']}"}
    elsewhere = PATH.replace("trial", "other")

    async def tried() -> str:
        answer = await rest.http.put(elsewhere, json=manifest, headers=operator)
        return problem(answer, 409, "conflict")

    nobody_has_it = await tried()
    assert all(shard["name"] in nobody_has_it for shard in pushed), "some have arrived in the other federation"
    last = (tmp_path / "public" / pushed[-1]["name"]).read_bytes()
    await rest.http.put(f"{PATH}/shards/{sha256_of(last)}", content=last)
    assert (await rest.http.put(PATH, json=manifest)).status_code == 200
    assert await tried() == nobody_has_it
    for shard in pushed:  # who has the shards themselves may use them
        content = (tmp_path / "public" / shard["name"]).read_bytes()
        assert (await rest.http.put(f"{elsewhere}/shards/{shard['sha256']}", content=content)).status_code == 204
    assert (await rest.http.put(elsewhere, json=manifest, headers=operator)).status_code == 200
    assert (await rest.http.put(PATH, json=manifest)).status_code == 200, "repeating it is harmless"
