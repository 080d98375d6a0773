"""A file seen as numbered chunks, each with its hash: what BeginUpload announces and UploadChunks sends."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from fedafd.domain.errors import DataError
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import UploadPurpose
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.rpc.codes import wire_purpose

__all__ = ["CHUNK_BYTES", "ChunkedFile"]

CHUNK_BYTES = 1 << 20
"""Measured best: smaller costs throughput, larger comes near gRPC's default message limit."""


@dataclass(frozen=True)
class ChunkedFile:
    """A file, its SHA-256, and the SHA-256 of each of its chunks in order."""

    path: Path
    sha256: str
    size_bytes: int
    chunk_bytes: int
    chunk_sha256: tuple[str, ...]

    @classmethod
    def of(cls, path: Path, chunk_bytes: int = CHUNK_BYTES) -> ChunkedFile:
        """Hash the file at `path`."""
        whole = hashlib.sha256()
        hashes = []
        with path.open("rb") as file:
            while chunk := file.read(chunk_bytes):
                whole.update(chunk)
                hashes.append(sha256_of(chunk))
        return cls(path, whole.hexdigest(), path.stat().st_size, chunk_bytes, tuple(hashes))

    def announcement(self, round_id: str, purpose: UploadPurpose) -> pb.BeginUploadRequest:
        """The request that announces it."""
        return pb.BeginUploadRequest(
            round_id=round_id,
            upload_purpose=wire_purpose(purpose),
            sha256=self.sha256,
            size_bytes=self.size_bytes,
            chunk_size_bytes=self.chunk_bytes,
            chunk_sha256=self.chunk_sha256,
        )

    async def messages(
        self, upload_id: str, indices: Iterable[int], on_sent: Callable[[int], None]
    ) -> AsyncIterator[pb.UploadChunksRequest]:
        """Those chunks as a stream; `on_sent` hears the length of each in bytes."""
        for index in indices:
            data = await asyncio.to_thread(self.read, index)
            yield pb.UploadChunksRequest(upload_id=upload_id, index=index, data=data)
            on_sent(len(data))

    def read(self, index: int) -> bytes:
        """The bytes of one chunk. Raises DataError for an index that the file does not have."""
        if not 0 <= index < len(self.chunk_sha256):
            raise DataError(f"{self.path}: has no chunk {index}; it has {len(self.chunk_sha256)}")
        with self.path.open("rb") as file:
            file.seek(index * self.chunk_bytes)
            return file.read(self.chunk_bytes)
