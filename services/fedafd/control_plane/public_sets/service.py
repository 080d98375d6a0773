"""Taking in shards, and making a manifest a federation's public set. Shards lie by hash: repeats are harmless."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from fedafd.artifacts.keys import incoming_shard, public_set_manifest, public_set_shard
from fedafd.artifacts.manifest import Manifest, read_manifest
from fedafd.control_plane.context import Context
from fedafd.control_plane.turns import in_store
from fedafd.domain.errors import ConflictError, InvalidRequestError, UploadError
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.federation_repository import get_federation, used_public_set
from fedafd.persistence.models import FederationRow
from fedafd.storage import ObjectStore

__all__ = ["adopt", "receive_shard"]


async def receive_shard(
    context: Context, federation: str, sha256: str, content: AsyncIterator[bytes], actor: str
) -> None:
    """Store one shard. Raises UploadError, and keeps nothing, when the content does not have the announced hash."""
    digest = hashlib.sha256()
    with tempfile.NamedTemporaryFile() as file:
        async for block in content:
            digest.update(block)
            file.write(block)
        file.flush()
        if digest.hexdigest() != sha256:
            raise UploadError(f"the shard's content has SHA-256 {digest.hexdigest()}, not {sha256}; send it again")
        size_bytes = file.tell()
        await in_store(context.store.put_file, incoming_shard(federation, sha256), Path(file.name))
    about = {"sha256": sha256, "size_bytes": size_bytes}
    async with context.database.transaction() as session:
        await get_federation(session, federation)
        record_event(session, "public_set.shard_received", federation_id=federation, actor=actor, **about)


async def adopt(context: Context, federation: str, content: bytes, actor: str) -> FederationRow:
    """Make a manifest, whose shards were sent to this federation before, its public set. That another federation has
    them counts for nothing: who knows the hashes of a set does not have the set, and learns not who has it.

    Raises DataError for a malformed manifest, InvalidRequestError for one without samples to train or test on, or with
    another size than a shard has, ConflictError for shards that have not arrived, NotFoundError.
    """
    async with context.database.snapshot() as session:
        row = await get_federation(session, federation)
        manifest = read_manifest(content)
        has_it = row.public_set_sha256 == manifest.sha256
        has_it = has_it or await used_public_set(session, federation, manifest.sha256)
    if not manifest.num_samples("train") or not manifest.num_samples("test"):
        raise InvalidRequestError("public set: needs samples in the splits train and test")
    await in_store(_collect, context.store, federation, manifest, has_it)
    summary = {split: manifest.num_samples(split) for split in ("train", "val", "test")}
    async with context.database.transaction() as session:
        row = await get_federation(session, federation, lock=True)
        if row.public_set_sha256 != manifest.sha256:
            row.public_set_sha256, row.public_set_summary = manifest.sha256, summary
            record_event(session, "public_set.changed", federation_id=row.id, actor=actor, sha256=manifest.sha256)
    return row


def _collect(store: ObjectStore, federation: str, manifest: Manifest, has_it: bool) -> None:
    stored = {}
    for shard in manifest.shards:
        in_place = store.stat(public_set_shard(manifest.sha256, shard.name)) if has_it else None
        stored[shard.name] = in_place or store.stat(incoming_shard(federation, shard.sha256))
    absent = [name for name, source in stored.items() if source is None]
    if absent:
        raise ConflictError(f"public set: shards {', '.join(absent)} have not arrived; send them before the manifest")
    sources = {name: source for name, source in stored.items() if source is not None}
    for shard in manifest.shards:
        if sources[shard.name].size_bytes != shard.size_bytes:
            raise InvalidRequestError(
                f"public set: shard {shard.name} has {sources[shard.name].size_bytes} bytes, and the manifest says"
                f" {shard.size_bytes}; push it again with `fedafd public-set push`"
            )
    for name, source in sources.items():
        _copy_shard(store, source.key, public_set_shard(manifest.sha256, name))
    store.put(public_set_manifest(manifest.sha256), manifest.to_bytes())
    # Only now: several shards of one manifest may have the same content.
    for digest in {shard.sha256 for shard in manifest.shards}:
        store.delete(incoming_shard(federation, digest))


def _copy_shard(store: ObjectStore, source: str, target: str) -> None:
    if source == target:
        return
    with tempfile.NamedTemporaryFile() as file:
        for block in store.stream(source):
            file.write(block)
        file.flush()
        store.put_file(target, Path(file.name))
