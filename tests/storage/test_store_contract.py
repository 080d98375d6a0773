"""What every object store does: a folder and a bucket of a real MinIO."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from urllib.request import urlopen

import pytest
from tests.full_disk import full_disk
from tests.servers import Minio, free_port

from fedafd.artifacts.keys import FEDERATIONS
from fedafd.domain.errors import (
    ArtifactCorruptError,
    ArtifactNotFoundError,
    ConfigurationError,
    InvalidRequestError,
    StorageError,
    StorageFullError,
    StorageUnavailableError,
)
from fedafd.domain.hashing import sha256_of
from fedafd.storage import CHUNK_BYTES, ObjectStore, StoreSettings, WriteProbe, open_store
from fedafd.storage.folder import FolderStore
from fedafd.storage.s3 import S3Store
from fedafd.storage.store import get_verified, put_all, twice_stored


@pytest.fixture(params=["folder", "minio"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "folder":
        return FolderStore(tmp_path / "store")
    return _bucket(request.getfixturevalue("minio"))


def _bucket(minio: Minio) -> S3Store:
    store = minio.own_bucket()
    store.make_bucket()
    return store


def test_what_is_put_is_got(store: ObjectStore) -> None:
    store.put("a/b", b"content")
    assert store.get("a/b") == b"content"


def test_an_empty_object_is_an_object(store: ObjectStore) -> None:
    store.put("empty", b"")
    assert store.get("empty") == b""
    assert (found := store.stat("empty")) is not None and found.size_bytes == 0


def test_a_second_put_replaces_the_first(store: ObjectStore) -> None:
    store.put("a", b"old")
    store.put("a", b"newer")
    assert store.get("a") == b"newer"


def test_objects_that_are_put_together_are_each_there(store: ObjectStore) -> None:
    objects = {f"a/{number}": os.urandom(number) for number in range(20)} | {"b/c/d": b"elsewhere", "a/3": b"once"}
    put_all(store, objects)
    put_all(store, {})
    assert {found.key: store.get(found.key) for found in store.list("")} == objects


def test_of_objects_that_are_put_together_a_bad_key_is_refused_and_none_is_half_there(store: ObjectStore) -> None:
    with pytest.raises(InvalidRequestError, match=r"\.\./c"):
        put_all(store, {"a": b"1", "../c": b"2", "d": b"3"})
    assert {store.get(found.key) for found in store.list("")} <= {b"1"}


def test_a_file_is_put_without_change(store: ObjectStore, tmp_path: Path) -> None:
    content = os.urandom(3 * CHUNK_BYTES + 17)
    (tmp_path / "file").write_bytes(content)
    store.put_file("big", tmp_path / "file")
    assert store.get("big") == content


@pytest.mark.parametrize(
    "offset", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 4, 2 * CHUNK_BYTES + 5, 10**9]
)
def test_a_stream_starts_at_the_offset(store: ObjectStore, offset: int) -> None:
    content = os.urandom(2 * CHUNK_BYTES + 5)
    store.put("s", content)
    pieces = list(store.stream("s", offset))
    assert b"".join(pieces) == content[offset:]
    for length in (0, 1, CHUNK_BYTES + 3, 10**9):
        assert b"".join(store.stream("s", offset, length)) == content[offset : offset + length]
    assert all(len(piece) <= CHUNK_BYTES for piece in pieces)


def test_a_missing_object_is_an_error_to_read_and_none_to_stat(store: ObjectStore) -> None:
    with pytest.raises(ArtifactNotFoundError, match="no/such"):
        store.get("no/such")
    assert store.stat("no/such") is None


def test_a_folder_of_objects_is_not_an_object(store: ObjectStore) -> None:
    store.put("a/b", b"1")
    assert store.stat("a") is None
    with pytest.raises(ArtifactNotFoundError):
        store.get("a")


def test_a_listing_is_ordered_and_keeps_to_the_prefix(store: ObjectStore) -> None:
    for key in ("x/2", "x/10", "x/1/deep", "y/1", "xx"):
        store.put(key, b"12")
    assert [(found.key, found.size_bytes) for found in store.list("x/")] == [("x/1/deep", 2), ("x/10", 2), ("x/2", 2)]
    assert [found.key for found in store.list("x/1")] == ["x/1/deep", "x/10"]
    assert list(store.list("none/")) == []


def in_pieces(store: ObjectStore, key: str, content: bytes, *, start: int = 0) -> None:
    for offset in range(start, len(content), 5 << 20):
        store.append(key, offset, content[offset : offset + (5 << 20)])


@pytest.fixture(scope="module")
def long() -> bytes:
    """Two pieces that S3 joins, and a rest."""
    return os.urandom((10 << 20) + 17)


def test_what_arrives_in_pieces_becomes_one_object(store: ObjectStore, tmp_path: Path, long: bytes) -> None:
    assert store.arrived("coming/x") == 0
    in_pieces(store, "coming/x", long)
    assert store.arrived("coming/x") == len(long)
    assert store.arrived_file("coming/x", tmp_path / "not-there-yet").read_bytes() == long
    store.finish("coming/x", "there/x")
    assert store.get("there/x") == long
    store.finish("coming/x", "there/x")
    store.cut("coming/x")
    store.cut("coming/x")
    assert [found.key for found in store.list("")] == ["there/x"]
    assert store.get("there/x") == long


def test_a_short_object_arrives_at_once(store: ObjectStore) -> None:
    store.append("coming", 0, b"short")
    store.finish("coming", "there")
    assert store.get("there") == b"short"


def test_pieces_may_come_twice_but_leave_no_gap(store: ObjectStore, tmp_path: Path, long: bytes) -> None:
    with pytest.raises(ArtifactNotFoundError, match="no bytes before 5242880"):
        store.append("x", 5 << 20, long[5 << 20 : 10 << 20])
    in_pieces(store, "x", long)
    in_pieces(store, "x", long, start=5 << 20)
    assert store.arrived("x") == len(long)
    assert store.arrived_file("x", tmp_path).read_bytes() == long


def test_what_is_cut_off_can_come_again(store: ObjectStore, tmp_path: Path, long: bytes) -> None:
    in_pieces(store, "x", long)
    store.cut("x", 7 << 20)
    held = store.arrived("x")
    assert 5 << 20 <= held <= 7 << 20
    in_pieces(store, "x", long, start=5 << 20)
    store.finish("x", "y")
    assert store.get("y") == long


def test_nothing_comes_of_what_has_not_arrived(store: ObjectStore, tmp_path: Path) -> None:
    for act in (lambda: store.finish("x", "y"), lambda: store.arrived_file("x", tmp_path)):
        with pytest.raises(ArtifactNotFoundError, match="nothing has arrived"):
            act()
    assert list(store.list("")) == []


def test_a_folder_without_second_names_keeps_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    store = FolderStore(tmp_path)
    store.append("x", 0, b"content")
    store.finish("x", "y")
    store.cut("x")
    assert [(found.key, store.get(found.key)) for found in store.list("")] == [("y", b"content")]


def test_deleting_twice_is_harmless(store: ObjectStore) -> None:
    store.put("a", b"1")
    store.delete("a")
    store.delete("a")
    assert store.stat("a") is None


@pytest.mark.parametrize("key", ["", "/etc/passwd", "a/../../b", "a//b", "a/.", "a\\b", "a\0b"])
def test_a_key_that_could_escape_is_refused(store: ObjectStore, key: str) -> None:
    with pytest.raises(InvalidRequestError):
        store.put(key, b"")


def test_content_that_does_not_fit_its_hash_is_refused(store: ObjectStore) -> None:
    store.put("a", b"1")
    assert get_verified(store, "a", sha256_of(b"1")) == b"1"
    with pytest.raises(ArtifactCorruptError, match="object a"):
        get_verified(store, "a", sha256_of(b"2"))


def test_what_is_kept_twice_is_whole_as_long_as_one_of_the_two_is(store: ObjectStore) -> None:
    data = b"hours of work"
    spoils: list[Callable[[], object]] = [
        lambda: store.put("a", b"hours of wprk"),
        lambda: store.delete("a"),
        lambda: store.delete("a.copy"),
    ]
    for spoil in spoils:
        put_all(store, twice_stored("a", data))
        spoil()
        assert get_verified(store, "a", sha256_of(data)) == data
        assert store.get("a") == data
    store.delete("a")
    with pytest.raises(ArtifactNotFoundError, match="a"):
        get_verified(store, "a", sha256_of(data))


def test_a_healthy_store_answers(store: ObjectStore) -> None:
    store.ping()


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore(tmp_path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFullError, match="no space left"):
        store.put("a", b"1")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_disk_that_is_really_full_is_said_so(tmp_path: Path) -> None:
    with full_disk(tmp_path), pytest.raises(StorageFullError):
        FolderStore(tmp_path).put("a", bytes(1 << 20))
    with full_disk(tmp_path):
        store = FolderStore(tmp_path)
        with pytest.raises(StorageFullError):
            store.put_batch({"a": b"", "b": bytes(1 << 20)})
        assert not any((tmp_path / ".incoming").iterdir())


def test_a_probe_of_writes_leaves_nothing_behind(store: ObjectStore) -> None:
    WriteProbe(store, below=FEDERATIONS).check()
    assert list(store.list("")) == []


def test_a_store_that_cannot_be_reached_says_where() -> None:
    address = f"127.0.0.1:{free_port()}"
    store = S3Store(endpoint=address, bucket="bucket", access_key="a", secret_key="b" * 8, secure=False)
    with pytest.raises(StorageUnavailableError, match=address):
        store.get("a")


def test_a_wrong_key_of_the_store_is_refused(minio: Minio) -> None:
    store = S3Store(
        endpoint=minio.endpoint, bucket="bucket", access_key=minio.access_key, secret_key="wrong" * 4, secure=False
    )
    with pytest.raises(StorageError, match="SignatureDoesNotMatch"):
        store.put("a", b"1")


def test_a_presigned_url_reads_without_a_key(minio: Minio) -> None:
    store = _bucket(minio)
    store.put("a", b"content")
    with urlopen(store.presigned_get("a", timedelta(minutes=1))) as answer:
        assert answer.read() == b"content"


def test_settings_choose_the_store(tmp_path: Path) -> None:
    assert isinstance(open_store(StoreSettings(url=str(tmp_path))), FolderStore)
    (tmp_path / "secret").write_text("very secret\n")
    settings = StoreSettings(url="s3://b", endpoint="h:1", access_key="a", secret_key_file=tmp_path / "secret")
    assert isinstance(open_store(settings), S3Store)
    with pytest.raises(ConfigurationError, match="endpoint, access_key, secret_key"):
        open_store(StoreSettings(url="s3://b"))
