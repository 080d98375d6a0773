"""Public sets sent over REST in any state, by callers of each role: shards cut, manifests that say otherwise.

What is refused leaves no object and changes nothing. What is adopted can be fetched whole.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import strategies as st
from tests.control_plane.rest import KEY, Rest, in_a_thread, settings_for
from tests.fuzz.files import bytes_like, json_values
from tests.fuzz.long import IS_LONG, fuzz

from fedafd.artifacts.keys import PUBLIC_SETS, incoming_shard, public_set_manifest, public_set_shard
from fedafd.artifacts.manifest import read_manifest
from fedafd.datasets import load_public_data, write_public_set
from fedafd.domain.hashing import sha256_of
from fedafd.storage import StoreSettings
from fedafd.storage.folder import FolderStore
from fedafd.storage.store import get_verified

EXAMPLES = 75
PATH = "/v1/federations/trial/public-set"
REFUSALS = {401, 403, 404, 409, 413, 422}
_OPERATOR, _NOBODY = "operator", "nobody"


@dataclass
class Site:
    """The control plane, what was sent to it, and who sends."""

    http: httpx.Client
    store: FolderStore
    manifest: dict[str, Any]
    shards: list[bytes]
    callers: dict[str, dict[str, str]]
    answers: Counter[int] = field(default_factory=Counter)

    def put(self, path: str, content: bytes, caller: str) -> bool:
        """Whether it was taken; a refusal must be a documented one, in words."""
        answer = self.http.put(f"{PATH}{path}", content=content, headers=self.callers[caller])
        self.answers[answer.status_code] += 1
        if answer.is_success:
            assert caller in ("admin", _OPERATOR), caller
            return True
        assert answer.status_code in REFUSALS, answer.text
        problem = answer.json()
        assert answer.headers["content-type"] == "application/problem+json" and 10 < len(problem["detail"]) < 20_000
        return False

    def adopted(self) -> str | None:
        """The hash of the federation's public set, whose manifest and shards all lie in the store, as they should."""
        answer = self.http.get(PATH, headers=self.callers["admin"])
        if answer.status_code == 404:
            return None
        sha256: str = answer.json()["sha256"]
        manifest = read_manifest(get_verified(self.store, public_set_manifest(sha256), sha256))
        for shard in manifest.shards:
            content = get_verified(self.store, public_set_shard(sha256, shard.name), shard.sha256)
            assert len(content) == shard.size_bytes
        return sha256

    def objects(self) -> set[str]:
        return {stored.key for stored in self.store.list(PUBLIC_SETS)}


@pytest.fixture
def site(database_url: str, tmp_path: Path) -> Iterator[Site]:
    data = load_public_data("shapes", None, {"num_train": 6, "num_val": 2, "num_test": 2})
    manifest = write_public_set(data, tmp_path / "public", rows_per_shard=3)
    shards = [(tmp_path / "public" / shard.name).read_bytes() for shard in manifest.shards]
    callers = {"admin": {"Authorization": f"Bearer {KEY}"}, _NOBODY: {"Authorization": "Bearer nobody"}}

    async def prepare(rest: Rest) -> None:
        await rest.federation()
        callers["client"] = await rest.enrol("north")
        callers.update({role: await rest.key(role, role) for role in ("viewer", _OPERATOR)})

    settings = settings_for(database_url, StoreSettings(url=str(tmp_path / "store")), requests_per_minute=10**6)
    with in_a_thread(settings, prepare) as url, httpx.Client(base_url=url, timeout=60) as http:
        yield Site(http, FolderStore(tmp_path / "store"), json.loads(manifest.to_bytes()), shards, callers)


def manifests_like(manifest: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """One with a few fields of its shards replaced, shards repeated or left out, or other bytes."""
    count = len(manifest["shards"])
    likely = [
        shard[key] for shard in manifest["shards"] for key in ("name", "sha256", "size_bytes", "num_rows", "split")
    ]
    values = (
        st.sampled_from(likely) | json_values() | st.sampled_from(["../x.parquet", "a/b.parquet", "0" * 64, "more"])
    )
    change = st.tuples(st.integers(0, count - 1), st.sampled_from(sorted(manifest["shards"][0])), values)
    order = st.lists(st.integers(0, count - 1), max_size=count + 1) | st.just(list(range(count)))

    def build(changes: list[tuple[int, str, Any]], kept: list[int]) -> bytes:
        shards = [dict(shard) for shard in manifest["shards"]]
        for at, key, value in changes:
            shards[at][key] = value
        return json.dumps(manifest | {"shards": [shards[at] for at in kept]}).encode()

    built = st.builds(build, st.lists(change, max_size=2), order)
    return built | built | bytes_like(json.dumps(manifest).encode())


def test_public_sets_in_any_state_are_refused_or_whole(site: Site) -> None:
    callers = st.sampled_from([_OPERATOR] * 6 + sorted(site.callers))
    shard = st.sampled_from(site.shards).flatmap(lambda content: bytes_like(content) | st.just(content))
    name = st.sampled_from(["own"] * 4 + ["other", "x" * 64, "%2e%2e", "A" * 64])

    def attack(example: tuple[bytes, str, bytes, str]) -> None:
        content, named, manifest, caller = example
        before, set_before = site.objects(), site.adopted()
        digest = {"own": sha256_of(content), "other": hashlib.sha256(b"other").hexdigest()}.get(named, named)
        taken = site.put(f"/shards/{digest}", content, caller)
        assert site.objects() - before <= ({incoming_shard("trial", digest)} if taken else set())
        assert not taken or digest == sha256_of(content)
        before = site.objects()
        if not site.put("", manifest, caller):
            assert site.objects() ^ before == set() and site.adopted() == set_before, site.answers
        else:
            assert site.adopted() == read_manifest(manifest).sha256

    for content in site.shards:
        assert site.put(f"/shards/{sha256_of(content)}", content, _OPERATOR)
    fuzz(st.tuples(shard, name, manifests_like(site.manifest), callers), attack, EXAMPLES)
    assert IS_LONG or {200, 204, 401, 403, 409, 422} <= set(site.answers), site.answers
    assert [path for path in site.store.root.rglob("*") if path.is_file() and "public-sets" not in path.parts] == []
