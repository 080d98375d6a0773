"""A personalized model that came in parts, put together from what its own client may refer to, and nothing else.

That is an encoder bundle that the client's task names, which it may download, and a file of a model that the same
client delivered since it enrolled, which it may read over REST. Whatever else is named is answered alike, whether it is
there or not, so that nobody learns by hashes what others have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import IO, NamedTuple

from fedafd.aggregator.context import Context
from fedafd.aggregator.model_files import Content
from fedafd.aggregator.tasks import find_artifact
from fedafd.artifacts.folders import each_file
from fedafd.artifacts.model_parts import NEW, BundleBase, ModelBase, NewBytes, Parts, join_parts, read_parts
from fedafd.artifacts.stage_io import BUNDLE
from fedafd.domain.errors import ArtifactNotFoundError, UploadError, UploadIncompleteError
from fedafd.persistence.caller_repository import CallingClient
from fedafd.persistence.model_repository import delivered_files
from fedafd.storage.store import CHUNK_BYTES

__all__ = ["model_content"]


async def model_content(
    context: Context, client: CallingClient, round_id: str, blob: IO[bytes], *, most_bytes: int
) -> Iterator[tuple[str, Content]]:
    """Path and content of each file of a model, whole or in parts; of parts at most so many bytes altogether.

    Contents are read in order, each to its end before the next path is asked for. They raise, as this does, UploadError
    for what no site of ours sends, and UploadIncompleteError where a part cannot be taken from what is here: the site
    sends the model whole then, and parts are looked at no more in this round.
    """
    read = await asyncio.to_thread(read_parts, blob)
    if read is None:
        return _whole(blob)
    parts, new = read
    if parts.size_bytes > most_bytes:
        raise UploadError(
            f"personalized model: its parts make {parts.size_bytes} bytes, and {most_bytes} were told; that is too much"
        )
    if context.failed_parts.has(round_id, client.id):
        raise _gone()
    with _noted(context, round_id, client):
        bases = await _bases(context, client, parts)
        _check_within(parts, bases)
    return _joined(context, round_id, client, bases, parts, new)


def _whole(blob: IO[bytes]) -> Iterator[tuple[str, Content]]:
    for path, content in each_file(blob):
        yield path, iter(partial(content.read, CHUNK_BYTES), b"")


@contextmanager
def _noted(context: Context, round_id: str, client: CallingClient) -> Iterator[None]:
    try:
        yield
    except UploadIncompleteError:
        context.failed_parts.add(round_id, client.id)
        raise


class _Base(NamedTuple):
    key: str
    size_bytes: int


def _check_within(parts: Parts, bases: Sequence[_Base]) -> None:
    """Raise UploadIncompleteError for a piece of more than there is, before anything is read for others."""
    for file in parts.files:
        for source, start, length in file.pieces:
            if source != NEW and start + length > bases[source - 1].size_bytes:
                raise _gone()


def _joined(
    context: Context, round_id: str, client: CallingClient, bases: Sequence[_Base], parts: Parts, new: NewBytes
) -> Iterator[tuple[str, Content]]:
    def pieces(base: int, start: int, length: int) -> Iterator[bytes]:
        return context.store.stream(bases[base].key, start, length)

    def watched(content: Content) -> Content:
        with _noted(context, round_id, client):
            try:
                yield from content
            except ArtifactNotFoundError:
                raise _gone() from None

    for path, content in join_parts(parts, new, pieces):
        yield path, watched(content)


async def _bases(context: Context, client: CallingClient, parts: Parts) -> list[_Base]:
    """Where the bases lie. Raises UploadIncompleteError for one that is not the client's to refer to, or is gone."""
    own: dict[tuple[int, str, str], _Base] = {}
    bundles: dict[str, _Base | None] = {}
    if versions := {base.version for base in parts.bases if isinstance(base, ModelBase)}:
        async with context.database.snapshot() as session:
            for version, file in await delivered_files(session, client, versions):
                own[version, file.path, file.sha256] = _Base(file.key, file.size_bytes)
    bases = []
    for base in parts.bases:
        if isinstance(base, BundleBase):
            if base.sha256 not in bundles:
                bundles[base.sha256] = await _bundle(context, client, base.sha256)
            own_base = bundles[base.sha256]
        else:
            own_base = own.get((base.version, base.path, base.sha256))
        if own_base is None:
            raise _gone()
        bases.append(own_base)
    return bases


async def _bundle(context: Context, client: CallingClient, sha256: str) -> _Base | None:
    located = await find_artifact(context, client, sha256)
    if located is None or not located[0].purpose.startswith(BUNDLE):
        return None
    return _Base(located[0].key, located[0].size_bytes)


def _gone() -> UploadIncompleteError:
    return UploadIncompleteError(
        "personalized model: it refers to what is not here, or is not this client's; send the model whole"
    )
