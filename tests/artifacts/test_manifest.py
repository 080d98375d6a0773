"""Manifests of public sets that say what cannot be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fedafd.artifacts.manifest import read_manifest
from fedafd.domain.errors import DataError

SHARD: dict[str, Any] = {
    "split": "train",
    "name": "train-00000.parquet",
    "sha256": "a" * 64,
    "size_bytes": 5,
    "num_rows": 1,
}


def manifest(*changes: dict[str, Any]) -> bytes:
    return json.dumps({"version": 1, "shards": [SHARD | change for change in changes]}).encode()


def test_a_manifest_is_read_and_written_alike() -> None:
    read = read_manifest(manifest({}, {"name": "test-00000.parquet", "split": "test"}))
    assert read_manifest(read.to_bytes()) == read
    assert (read.num_samples("train"), read.num_samples("test"), read.num_samples("val")) == (1, 1, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # Shards are stored by their names: the second would have been taken to be there, with the first one's content.
        (manifest({}, {"sha256": "b" * 64}), "shards: .*several shards have the name train-00000.parquet"),
        (manifest({"split": "dev"}), "shards.0.split: Input should be 'train', 'val' or 'test'"),
        (manifest({"name": "../x.parquet"}), "shards.0.name"),
        (manifest({"num_rows": 0}), "shards.0.num_rows"),
        (manifest(), "shards"),
        (b"", "top level"),
    ],
    ids=["a name twice", "another split", "a path", "no rows", "no shards", "nothing"],
)
def test_what_cannot_be_is_refused_with_its_place(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_manifest(content)
