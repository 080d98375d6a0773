"""What an object store does, whichever it is. `tests/storage` runs one suite on every implementation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol, runtime_checkable

from fedafd.domain.errors import ArtifactCorruptError, ArtifactNotFoundError, InvalidRequestError, StorageError
from fedafd.domain.hashing import sha256_of

__all__ = [
    "CHUNK_BYTES",
    "BatchStore",
    "FormStore",
    "ObjectInfo",
    "ObjectStore",
    "PresigningStore",
    "UnfinishedWrites",
    "UploadForm",
    "check_key",
    "copy_of",
    "get_verified",
    "put_all",
    "twice_stored",
]

CHUNK_BYTES = 1 << 20
"""Length of the pieces that `stream` yields, the last may be shorter."""
_COPY = ".copy"


@dataclass(frozen=True)
class ObjectInfo:
    """A stored object's key and length in bytes."""

    key: str
    size_bytes: int


class ObjectStore(Protocol):
    """Blobs under keys with forward slashes. Blocking; asyncio code calls it through a thread.

    Every method raises StorageUnavailableError when the store cannot be reached, StorageError when it refuses, and
    InvalidRequestError for a key that is empty, absolute, or climbs with `..`.
    """

    def put(self, key: str, data: bytes) -> None:
        """Store `data`, replacing what is there. Readers see the old or the new object, never a part of one.

        When it returns, the object survives a crash. Raises StorageFullError when no space is left; nothing of the
        object stays behind then.
        """

    def put_file(self, key: str, path: Path) -> None:
        """Store a file's content, as `put` does, without holding it in memory."""

    def get(self, key: str) -> bytes:
        """The whole object. Raises ArtifactNotFoundError if there is none."""

    def stream(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The object from byte `offset` on, `length` bytes of it or all, in pieces of CHUNK_BYTES. At or past the end:
        no piece.

        Raises ArtifactNotFoundError if there is none, at the latest when the first piece is asked for.
        """

    def stat(self, key: str) -> ObjectInfo | None:
        """The object's length, or None if there is none."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key starts with `prefix` (which may end inside a name), ordered by key."""

    def delete(self, key: str) -> None:
        """Remove the object; harmless if there is none."""

    def ping(self) -> None:
        """Raise unless the store can be used."""

    # An object that arrives in pieces, over any number of connections and processes, until `finish` makes it whole.

    append_bytes: int
    """The fewest bytes that `append` takes, but for the last piece of an object."""

    def arrived(self, key: str) -> int:
        """How many bytes of the arriving object are there, from its begin without a gap."""

    def append(self, key: str, offset: int, data: bytes) -> None:
        """Keep `data` as the arriving object's bytes from `offset` on; the same bytes once more are harmless.

        They survive the death of this process, not of the machine. Raises ArtifactNotFoundError if bytes before
        `offset` are missing, StorageFullError.
        """

    def arrived_file(self, key: str, scratch: Path, /) -> Path:
        """What has arrived, as a file to read: the store's own, or a copy in the folder `scratch`, made if needed.

        Raises ArtifactNotFoundError if nothing has.
        """

    def finish(self, key: str, target: str) -> None:
        """Store what has arrived under `target`, as `put` does, without sending it once more; `key` keeps it, too.

        Raises ArtifactNotFoundError if nothing has arrived.
        """

    def cut(self, key: str, size_bytes: int = 0) -> None:
        """Forget what has arrived beyond `size_bytes`, perhaps some before; with 0 the arriving object is gone."""


@runtime_checkable
class PresigningStore(Protocol):
    """A store that can let somebody without a key of its own read one object for a while."""

    def presigned_get(self, key: str, lifetime: timedelta) -> str:
        """A URL that reads the object until `lifetime` is over. Raises as ObjectStore does."""


@dataclass(frozen=True)
class UploadForm:
    """Bytes of an arriving object that somebody without a key may post: `multipart/form-data`, `fields` and `file`."""

    url: str
    fields: Mapping[str, str]
    offset_bytes: int
    length_bytes: int


@runtime_checkable
class FormStore(Protocol):
    """A store that can let somebody without a key of its own append to one arriving object for a while."""

    def append_form(self, key: str, offset: int, length: int, lifetime: timedelta) -> UploadForm:
        """A form that does what `append` does for exactly `length` bytes, until `lifetime` is over."""


@runtime_checkable
class BatchStore(Protocol):
    """A store to which several objects cost less together than one after the other."""

    def put_batch(self, objects: Mapping[str, bytes]) -> None:
        """Store each object under its key as `put` does; when it returns, all of them survive a crash.

        Raises as `put` does; then some may be stored, each of them whole.
        """


@runtime_checkable
class UnfinishedWrites(Protocol):
    """A store in which a process that was killed while it wrote leaves something behind.

    S3 is not one: what it keeps of a broken write is no object, and the service removes it by a rule of its own.
    """

    def unfinished(self, older_than: timedelta) -> Iterator[ObjectInfo]:
        """Writes that began longer ago than `older_than` and never ended; `delete` removes them."""


def check_key(key: str) -> str:
    """`key`, if it is a plain relative path. Raises InvalidRequestError."""
    parts = key.split("/")
    if not key or "\\" in key or "\0" in key or any(part in ("", ".", "..") for part in parts):
        raise InvalidRequestError(
            f"object key {key!r}: must be a relative path without empty, '.' or '..' parts", key=key
        )
    return key


def put_all(store: ObjectStore, objects: Mapping[str, bytes]) -> None:
    """Store all objects, together where the store gains by it. Raises as `put` does; some may be stored then."""
    if len(objects) > 1 and isinstance(store, BatchStore):
        store.put_batch(objects)
        return
    for key, data in objects.items():
        store.put(key, data)


def twice_stored(key: str, data: bytes, *, is_there: bool = False) -> dict[str, bytes]:
    """By key what nobody can make again, and a copy beside it, which `get_verified` falls back on; for `put_all`.

    `is_there`: the object itself has just been read and verified, and is not written again.
    """
    return {copy_of(key): data} if is_there else {key: data, copy_of(key): data}


def copy_of(key: str) -> str:
    """Where the copy of an object that is stored twice lies."""
    return f"{key}{_COPY}"


def get_verified(store: ObjectStore, key: str, sha256: str) -> bytes:
    """The object, if its content has the hash it is named by. Raises ArtifactCorruptError, ArtifactNotFoundError.

    One that is lost or damaged is put back from its copy, if it has a whole one.
    """
    try:
        return _verified(store, key, sha256)
    except (ArtifactCorruptError, ArtifactNotFoundError):
        with suppress(ArtifactCorruptError, ArtifactNotFoundError):
            data = _verified(store, copy_of(key), sha256)
            with suppress(StorageError):  # who may read only reads the copy the next time, too
                store.put(key, data)
            return data
        raise


def _verified(store: ObjectStore, key: str, sha256: str) -> bytes:
    data = store.get(key)
    computed = sha256_of(data)
    if computed != sha256:
        raise ArtifactCorruptError(
            f"object {key}: its content has SHA-256 {computed}, expected {sha256}; restore it from a backup",
            key=key,
        )
    return data
