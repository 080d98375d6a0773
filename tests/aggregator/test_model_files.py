"""A shared model is checked and stored in pieces, all of it or nothing, on a folder and on a real MinIO."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save
from tests.full_disk import full_disk
from tests.servers import Minio

from fedafd.aggregator import model_files
from fedafd.aggregator.model_files import store_model_files
from fedafd.artifacts.ref import ArtifactRef
from fedafd.domain.errors import StorageFullError, UploadError
from fedafd.domain.hashing import sha256_of
from fedafd.storage.folder import FolderStore
from fedafd.storage.store import ObjectStore

_MIB = 1 << 20


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "folder":
        return FolderStore(tmp_path / "store")
    minio: Minio = request.getfixturevalue("minio")
    return minio.own_bucket()


def weights(size_mib: int) -> bytes:
    """Which nothing makes smaller."""
    return save({"w": np.random.default_rng(size_mib).standard_normal(size_mib * _MIB // 4).astype(np.float32)})


def in_pieces(content: bytes, length: int = _MIB) -> Iterator[bytes]:
    return (content[start : start + length] for start in range(0, len(content), length))


def stored(store: ObjectStore, files: dict[str, bytes], scratch: Path, *, piece: int = _MIB) -> dict[str, ArtifactRef]:
    return store_model_files(
        store,
        ((path, in_pieces(content, piece)) for path, content in files.items()),
        arriving=lambda name: f"arriving/{name}",
        target=lambda path: f"model/{path}",
        scratch=scratch,
    )


@pytest.mark.parametrize("piece", [7, 1000, _MIB])
def test_files_of_any_size_are_stored_as_they_came(store: ObjectStore, tmp_path: Path, piece: int) -> None:
    files = {"a/model.safetensors": weights(1), "a/config.json": b"{}", "empty.txt": b"", "README.md": b"#" * 3000}
    if piece == _MIB:
        files |= {
            "b/model.safetensors": weights(13),
            "c/model.safetensors": weights(6),
            "tokenizer.json": b"[1]" + b" " * 5 * _MIB,
        }
    entries = stored(store, files, tmp_path / "scratch", piece=piece)
    assert [*entries] == [*files]
    for path, content in files.items():
        entry = entries[path]
        assert (entry["sha256"], entry["size_bytes"]) == (sha256_of(content), len(content))
        assert store.get(entry["key"]) == content
    assert [*store.list("arriving/")] == []


def headed(header: str, data: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header.encode() + data


_TENSOR = '"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}'
BAD = {
    "a name twice": headed(f"{{{_TENSOR}, {_TENSOR}}}", b"four"),
    "metadata twice": headed(f'{{"__metadata__": {{"b": "1"}}, "__metadata__": {{"b": "2"}}, {_TENSOR}}}', b"four"),
    "a key of the metadata twice": headed(f'{{"__metadata__": {{"b": "1", "b": "2"}}, {_TENSOR}}}', b"four"),
    "broken weights": weights(6)[:-4],
    "no header": b"\xff" * 9 * _MIB,
    "a header of another length": b"\x09" + bytes(7) + b'{"a":1}  ' + bytes(6 * _MIB),
    "much json": b"[" + b"1," * 17 * _MIB + b"1]",
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_bad_leaves_nothing_of_those_before_it(store: ObjectStore, tmp_path: Path, name: str) -> None:
    bad = "x.json" if name == "much json" else "x.safetensors"
    files = {"a.safetensors": weights(7), "b.json": b"{}", bad: BAD[name], "never.txt": b"never read"}
    with pytest.raises(
        UploadError, match="more to read at once" if name in ("much json", "no header") else "not readable"
    ):
        stored(store, files, tmp_path / "scratch")
    assert [*store.list("")] == []


def test_a_full_disk_here_is_an_outage_of_storage_and_the_commit_may_be_repeated(tmp_path: Path) -> None:
    folder = tmp_path / "full"
    folder.mkdir()
    with full_disk(folder), pytest.raises(StorageFullError, match="set TMPDIR") as raised:
        stored(FolderStore(tmp_path / "store"), {"a.safetensors": weights(1)}, folder / "scratch")
    assert raised.value.retryable


def test_a_copy_from_an_object_store_that_fills_the_disk_is_one_too(minio: Minio, tmp_path: Path) -> None:
    bucket = minio.own_bucket()
    bucket.append("arriving/x", 0, weights(6))
    folder = tmp_path / "full"
    folder.mkdir()
    with full_disk(folder), pytest.raises(StorageFullError, match="set TMPDIR"):
        bucket.arrived_file("arriving/x", folder / "scratch")


def test_a_reading_that_breaks_off_leaves_nothing(store: ObjectStore, tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield from in_pieces(weights(7))
        raise UploadError("cut")

    files = iter([("a.safetensors", in_pieces(weights(6))), ("b.safetensors", broken())])
    with pytest.raises(UploadError, match="cut"):
        store_model_files(store, files, arriving="arriving/{}".format, target="model/{}".format, scratch=tmp_path / "s")
    assert [*store.list("")] == []


def test_a_model_of_very_many_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files, "_MOST_FILES", 3)
    files = {f"{number}.txt": b"x" for number in range(4)}
    with pytest.raises(UploadError, match="more than 3 files"):
        stored(FolderStore(tmp_path / "store"), files, tmp_path / "scratch")


def test_a_model_takes_no_more_memory_the_larger_it_is(store: ObjectStore, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(weights(96))
    peaks = []
    for _ in range(2):  # the first call loads what it needs
        with path.open("rb") as file:
            tracemalloc.start()
            store_model_files(
                store,
                iter([("m.safetensors", iter(lambda: file.read(_MIB), b""))]),
                arriving="arriving/{}".format,
                target="model/{}".format,
                scratch=tmp_path / "scratch",
            )
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[-1] < 24 * _MIB
