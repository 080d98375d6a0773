"""Blobs as they arrive: each grows in the store, chunk after chunk, until its delivery is committed.

Nothing is kept in this process but what the store takes only in larger pieces. So a stream that breaks off, a restart,
or another aggregator behind the same address goes on from what the store has.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedafd.artifacts.keys import RoundObjects
from fedafd.domain.errors import ArtifactNotFoundError, UploadError, UploadIncompleteError
from fedafd.domain.hashing import file_sha256, sha256_of
from fedafd.persistence.models import RoundRow, UploadRow
from fedafd.storage import ObjectStore

__all__ = ["ArrivingBlob", "Stream", "remove_left_scratch", "scratch_folder"]

_MOST_LISTED = 10
_SCRATCH = "fedafd-"
_LEFT_SECONDS = 24 * 3600
_HASHED_AT_ONCE = 64 << 10
"""Bytes; to hash them takes less than to hand them to a thread and to be woken by it (0.2 ms)."""


class ArrivingBlob:
    """The blob of one announced upload, in the store."""

    def __init__(self, store: ObjectStore, row: RoundRow, upload: UploadRow) -> None:
        self._store, self.upload = store, upload
        self.key = RoundObjects(row.federation_id, row.number).arriving(upload.id)

    async def size_arrived(self) -> int:
        """How many bytes have arrived, from the begin without a gap."""
        return min(await asyncio.to_thread(self._store.arrived, self.key), self.upload.size_bytes)

    def missing(self, arrived_bytes: int) -> range:
        """Indices of the chunks that are missing after `arrived_bytes`: all from the first incomplete one on."""
        count = len(self.upload.chunk_sha256)
        whole = arrived_bytes == self.upload.size_bytes
        return range(count if whole else arrived_bytes // self.upload.chunk_size_bytes, count)

    def append(self, first: int, data: bytes) -> None:
        """Keep the bytes of whole chunks, the first of index `first`; for a thread. Raises UploadIncompleteError for a
        gap."""
        try:
            self._store.append(self.key, first * self.upload.chunk_size_bytes, data)
        except ArtifactNotFoundError:
            raise self._gap(first) from None

    async def file(self, scratch: Path) -> Path:
        """The whole blob as a file, whose hash is right.

        Raises UploadIncompleteError when some of it has not arrived, or was damaged in the store and is missing now,
        and UploadError when it is not the blob that was announced.
        """
        try:
            path, size, computed = await asyncio.to_thread(self._read, scratch)
        except (ArtifactNotFoundError, FileNotFoundError):
            raise self._gap(0) from None
        if size < self.upload.size_bytes:
            raise self._gap(size // self.upload.chunk_size_bytes)
        if computed != self.upload.sha256:
            await self._cut_damaged(path)
            raise UploadError(f"upload {self.upload.id}: the whole blob does not have the announced hash")
        return path

    def _read(self, scratch: Path) -> tuple[Path, int, str]:
        """The file, its length, and its hash, which of a file that is too short nobody needs."""
        path = self._store.arrived_file(self.key, scratch)
        size = path.stat().st_size
        return path, size, file_sha256(path) if size >= self.upload.size_bytes else ""

    async def finish(self, target: str) -> None:
        """Store the blob under `target`. Raises UploadIncompleteError if it is gone meanwhile."""
        try:
            await asyncio.to_thread(self._store.finish, self.key, target)
        except ArtifactNotFoundError:
            raise self._gap(0) from None

    async def discard(self) -> None:
        """Forget it; what `finish` stored stays."""
        await asyncio.to_thread(self._store.cut, self.key)

    async def _cut_damaged(self, path: Path) -> None:
        """Forget all from the first chunk on that is not what arrived. Raises UploadIncompleteError if one is not."""
        sizes, hashes = self.upload.chunk_size_bytes, self.upload.chunk_sha256
        damaged = await asyncio.to_thread(_damaged_chunks, path, sizes, hashes)
        if damaged:
            await asyncio.to_thread(self._store.cut, self.key, damaged[0] * sizes)
            listed = ", ".join(str(index) for index in damaged[:_MOST_LISTED])
            raise UploadIncompleteError(
                f"upload {self.upload.id}: chunks {listed} were damaged in the store; begin it again"
            )

    def _gap(self, index: int) -> UploadIncompleteError:
        return UploadIncompleteError(
            f"upload {self.upload.id}: chunk {index} has not arrived; begin the upload again to see what is missing"
        )


class Stream:
    """Chunks of one blob that one call brings, in ascending order."""

    def __init__(self, blob: ArrivingBlob, first: int, append_bytes: int) -> None:
        """It begins with chunk `first`; the store takes `append_bytes` at once."""
        self._blob, self._append_bytes = blob, append_bytes
        self._first = self._next = first
        self._waiting: list[bytes] = []
        self.accepted = 0
        """Chunks of this call that are in the store."""

    async def take(self, index: int, data: bytes) -> None:
        """Check a chunk and keep it; one that came before is not kept twice.

        Raises UploadError unless it is exactly what was announced, UploadIncompleteError for one that leaves a gap.
        """
        upload = self._blob.upload
        if not 0 <= index < len(upload.chunk_sha256):
            raise UploadError(f"upload {upload.id}: has no chunk {index}; it has {len(upload.chunk_sha256)}")
        announced = min(upload.chunk_size_bytes, upload.size_bytes - index * upload.chunk_size_bytes)
        if len(data) != announced:
            raise UploadError(f"upload {upload.id}: chunk {index} has {len(data)} bytes, announced were {announced}")
        if index == self._next and self._completes(data):
            await asyncio.to_thread(self._check_and_append, index, data)
            return
        if len(data) <= _HASHED_AT_ONCE:
            self._check(index, data)
        else:
            await asyncio.to_thread(self._check, index, data)
        if index > self._next:
            raise UploadIncompleteError(
                f"upload {upload.id}: chunk {index} came before chunk {self._next}; begin it again, and send in order"
            )
        if index == self._next:
            self._waiting.append(data)
            self._next += 1

    def _completes(self, data: bytes) -> bool:
        """Whether with this chunk as many bytes wait as the store takes at once, or all that are left."""
        is_last = self._next + 1 == len(self._blob.upload.chunk_sha256)
        return is_last or sum(map(len, self._waiting)) + len(data) >= self._append_bytes

    def _check(self, index: int, data: bytes) -> None:
        upload = self._blob.upload
        if sha256_of(data) != upload.chunk_sha256[index]:
            raise UploadError(f"upload {upload.id}: chunk {index} does not have the announced hash; send it again")

    def _check_and_append(self, index: int, data: bytes) -> None:
        """Both in one thread: to be handed to another costs about as much as to hash a chunk."""
        self._check(index, data)
        self._blob.append(self._first, b"".join([*self._waiting, data]) if self._waiting else data)
        self.accepted += len(self._waiting) + 1
        self._first, self._next, self._waiting = index + 1, index + 1, []


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder's name that is nobody else's, for a store that copies what arrived; gone afterwards if it was made.

    A store with files of its own needs none, and to make one and remove it costs milliseconds of the event loop.
    """
    folder = Path(tempfile.gettempdir(), f"{_SCRATCH}{uuid.uuid4().hex}")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_left_scratch() -> None:
    """Remove what commits left there whose aggregator was killed: folders that nothing came into for a day.

    Others may work beside this one, on the same disk.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}{'[0-9a-f]' * 32}"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > _LEFT_SECONDS:
                shutil.rmtree(folder)


def _damaged_chunks(path: Path, chunk_bytes: int, hashes: list[str]) -> list[int]:
    with path.open("rb") as file:
        return [index for index, announced in enumerate(hashes) if sha256_of(file.read(chunk_bytes)) != announced]
