"""A personalized model that came in parts, put together from what its own client may refer to, and nothing else.

That is an encoder bundle that the client's task names, which it may download, and a file of a model that the same
client delivered since it enrolled, which it may read over REST. Whatever else is named is answered alike, whether it is
there or not, so that nobody learns by hashes what others have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from fedafd.aggregator.context import Context
from fedafd.aggregator.tasks import find_artifact
from fedafd.artifacts.folders import unpack_folder
from fedafd.artifacts.model_parts import BundleBase, ModelBase, Parts, join_parts, read_parts
from fedafd.artifacts.stage_io import BUNDLE
from fedafd.domain.errors import ArtifactNotFoundError, UploadError, UploadIncompleteError
from fedafd.persistence.caller_repository import CallingClient
from fedafd.persistence.model_repository import delivered_files

__all__ = ["whole_model"]


async def whole_model(
    context: Context, client: CallingClient, round_id: str, blob: bytes, *, most_bytes: int
) -> dict[str, bytes]:
    """The files of a model, whole or in parts, by path; of parts at most so many bytes altogether.

    Raises UploadError for what no site of ours sends, and UploadIncompleteError where a part cannot be taken from what
    is here: the site sends the model whole then, and parts are looked at no more in this round.
    """
    read = await asyncio.to_thread(read_parts, blob)
    if read is None:
        return await asyncio.to_thread(unpack_folder, blob)
    parts, new = read
    if parts.size_bytes > most_bytes:
        raise UploadError(
            f"personalized model: its parts make {parts.size_bytes} bytes, and {most_bytes} were told; that is too much"
        )
    if context.failed_parts.has(round_id, client.id):
        raise _gone()
    try:
        return await _joined(context, await _keys(context, client, parts), parts, new)
    except UploadIncompleteError:
        context.failed_parts.add(round_id, client.id)
        raise


async def _joined(context: Context, keys: list[str], parts: Parts, new: bytes) -> dict[str, bytes]:
    def pieces(base: int, start: int, length: int) -> Iterator[bytes]:
        return context.store.stream(keys[base], start, length)

    try:
        return await asyncio.to_thread(lambda: dict(join_parts(parts, new, pieces)))
    except ArtifactNotFoundError:
        raise _gone() from None


async def _keys(context: Context, client: CallingClient, parts: Parts) -> list[str]:
    """Where the bases lie. Raises UploadIncompleteError for one that is not the client's to refer to, or is gone."""
    own: dict[tuple[int, str, str], str] = {}
    if versions := {base.version for base in parts.bases if isinstance(base, ModelBase)}:
        async with context.database.snapshot() as session:
            for version, file in await delivered_files(session, client, versions):
                own[version, file.path, file.sha256] = file.key
    keys = []
    for base in parts.bases:
        if isinstance(base, BundleBase):
            key = await _bundle_key(context, client, base.sha256)
        else:
            key = own.get((base.version, base.path, base.sha256))
        if key is None:
            raise _gone()
        keys.append(key)
    return keys


async def _bundle_key(context: Context, client: CallingClient, sha256: str) -> str | None:
    located = await find_artifact(context, client, sha256)
    return located[0].key if located is not None and located[0].purpose.startswith(BUNDLE) else None


def _gone() -> UploadIncompleteError:
    return UploadIncompleteError(
        "personalized model: it refers to what is not here, or is not this client's; send the model whole"
    )
