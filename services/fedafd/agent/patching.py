"""What of a new artifact a participant has already, in the last one of its purpose."""

from __future__ import annotations

import asyncio

from fedafd.agent.cache import ArtifactCache
from fedafd.agent.connection import AggregatorConnection
from fedafd.agent.patch import CHANGE_IN_PART, WORTH_A_PATCH_BYTES, Patch
from fedafd.proto.v1 import types_pb2

__all__ = ["patch_of_last"]


async def patch_of_last(
    connection: AggregatorConnection, artifact: types_pb2.Artifact, cache: ArtifactCache
) -> Patch | None:
    """How the artifact is made of the last one of its purpose; None where nothing is saved by that."""
    if not artifact.purpose.startswith(CHANGE_IN_PART) or artifact.size_bytes < WORTH_A_PATCH_BYTES:
        return None
    last = await asyncio.to_thread(cache.newest, artifact.purpose)
    is_here = await asyncio.to_thread(cache.find, artifact.sha256) is not None
    patch = None if last is None or is_here else await connection.patch(artifact, last)
    return None if patch is None or patch.changed_bytes == artifact.size_bytes else patch
