"""The blocks of what sites download, described once for all of them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator

from fedafd.aggregator.context import Context
from fedafd.aggregator.making_again import make_again
from fedafd.artifacts.blocks import block_digests, block_length
from fedafd.domain.errors import ArtifactCorruptError, ArtifactNotFoundError
from fedafd.persistence.caller_repository import WaitingPart
from fedafd.proto.v1 import types_pb2
from fedafd.storage.store import ObjectStore

__all__ = ["describe"]


async def describe(context: Context, artifact: types_pb2.Artifact, part: WaitingPart) -> tuple[int, bytes]:
    """Length of a block, and the digests of all blocks (fedafd.artifacts.blocks).

    The object is read once. Raises as `make_again` if it is lost or damaged.
    """
    length = block_length(artifact.size_bytes)

    async def read() -> bytes:
        try:
            return await asyncio.to_thread(_read, context.store, artifact, length)
        except (ArtifactCorruptError, ArtifactNotFoundError) as error:
            await make_again(context, artifact, part, error)
            raise

    return length, await context.digests.get(artifact.sha256, read)


def _read(store: ObjectStore, artifact: types_pb2.Artifact, length: int) -> bytes:
    whole = hashlib.sha256()

    def hashed() -> Iterator[bytes]:
        for piece in store.stream(artifact.key):
            whole.update(piece)
            yield piece

    digests = block_digests(hashed(), length)
    if whole.hexdigest() != artifact.sha256:
        raise ArtifactCorruptError(f"object {artifact.key}: its bytes have another hash", sha256=artifact.sha256)
    return digests
