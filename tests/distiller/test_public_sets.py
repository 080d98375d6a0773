"""A distiller fetches a public set once, checks it, and keeps within its limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedafd.datasets import load_public_data, write_public_set
from fedafd.distiller.public_sets import PublicSets
from fedafd.domain.errors import ArtifactCorruptError, ArtifactNotFoundError
from fedafd.learning.images import image_pixels
from fedafd.storage.folder import FolderStore


class CountingStore(FolderStore):
    """A folder store that counts reads by the last part of the key."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads: Counter[str] = Counter()

    def stream(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        self.reads[key.rpartition("/")[2]] += 1
        return super().stream(key, offset, length)


def push(store: FolderStore, folder: Path, seed: int = 0) -> str:
    sizes = {"num_train": 6, "num_val": 1, "num_test": 2, "seed": seed}
    manifest = write_public_set(load_public_data("shapes", None, sizes), folder, rows_per_shard=4)
    for name in ("manifest.json", *(shard.name for shard in manifest.shards)):
        store.put_file(f"public-sets/{manifest.sha256}/{name}", folder / name)
    return manifest.sha256


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    return CountingStore(tmp_path / "store")


def test_stages_share_one_reading_of_what_they_need(store: CountingStore, tmp_path: Path) -> None:
    sha256 = push(store, tmp_path / "set")
    sets = PublicSets(store, tmp_path / "cache", limit_bytes=10**8)
    first = image_pixels(sets.open(sha256).split("train").images, 16)
    for _ in range(3):
        assert image_pixels(sets.open(sha256).split("train").images, 16).equal(first)
    assert store.reads == {"manifest.json": 1, "train-00000.parquet": 1, "train-00001.parquet": 1}


def test_a_restarted_distiller_reads_from_its_own_disk(store: CountingStore, tmp_path: Path) -> None:
    sha256 = push(store, tmp_path / "set")
    for _ in range(2):
        sets = PublicSets(store, tmp_path / "cache", limit_bytes=10**8)
        image_pixels(sets.open(sha256).split("train").images, 16)
    assert store.reads == {"manifest.json": 2, "train-00000.parquet": 1, "train-00001.parquet": 1}


def test_a_shard_that_rotted_in_the_store_is_refused_and_not_kept(store: CountingStore, tmp_path: Path) -> None:
    sha256 = push(store, tmp_path / "set")
    store.put(f"public-sets/{sha256}/test-00000.parquet", b"rot")
    sets = PublicSets(store, tmp_path / "cache", limit_bytes=10**8)
    with pytest.raises(ArtifactCorruptError):
        sets.open(sha256).split("test")
    assert list((tmp_path / "cache" / "shards").iterdir()) == []
    assert len(sets.open(sha256).split("train")) == 6


def test_an_unknown_set_is_refused(store: CountingStore, tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFoundError):
        PublicSets(store, tmp_path / "cache", limit_bytes=10**8).open("0" * 64)


def test_the_cache_stays_within_its_limit_and_what_went_is_fetched_again(store: CountingStore, tmp_path: Path) -> None:
    known = [push(store, tmp_path / f"set-{seed}", seed) for seed in range(3)]
    limit = 40_000
    sets = PublicSets(store, tmp_path / "cache", limit_bytes=limit)
    pixels = [image_pixels(sets.open(sha256).split("train").images, 32) for sha256 in known]
    for name in ("shards", "pixels"):
        assert sum(path.stat().st_size for path in (tmp_path / "cache" / name).iterdir()) <= limit
    fresh = PublicSets(store, tmp_path / "cache", limit_bytes=limit)
    for sha256, before in zip(known, pixels, strict=True):
        assert image_pixels(fresh.open(sha256).split("train").images, 32).equal(before)
