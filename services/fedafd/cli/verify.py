"""`fedafd store verify`: does the object store hold what the database names? For use after a restore."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from fedafd.cli.output_format import Output, OutputFormat, print_answer
from fedafd.domain.process_errors import IncompleteStoreError

if TYPE_CHECKING:
    from fedafd.persistence.object_repository import NamedObject
    from fedafd.storage import ObjectStore

__all__ = ["store_verify"]

_SHOWN = 20


def store_verify(output: Output = OutputFormat.TABLE) -> None:
    """Read every object that the database names and compare its hash. Settings: FEDAFD_AGGREGATOR_*."""
    from fedafd.aggregator.settings import load_stored_settings
    from fedafd.storage import open_store

    settings = load_stored_settings()
    store = open_store(settings.store)
    objects, public_sets = asyncio.run(_named(settings.database_url.get_secret_value()))
    problems, count = [], 0
    for entry in (*objects, *_public_objects(store, public_sets)):
        count += 1
        if problem := _problem(store, entry):
            problems.append(problem)
    if output.is_data:
        print_answer({"objects": count, "problems": problems}, output)
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise IncompleteStoreError(f"{len(problems)} of {count} objects: {'; '.join(problems[:_SHOWN])}{more}")
    if not output.is_data:
        typer.echo(f"{count} objects are there and have the hash that the database names")


async def _named(database_url: str) -> tuple[list[NamedObject], list[str]]:
    from fedafd.persistence.database import Database
    from fedafd.persistence.migrate import check_schema
    from fedafd.persistence.object_repository import named_objects, public_set_hashes

    database = Database(database_url)
    try:
        await check_schema(database)
        async with database.snapshot() as session:
            return await named_objects(session), await public_set_hashes(session)
    finally:
        await database.close()


def _public_objects(store: ObjectStore, public_sets: list[str]) -> Iterator[NamedObject]:
    from fedafd.artifacts.keys import public_set_manifest, public_set_shard
    from fedafd.artifacts.manifest import read_manifest
    from fedafd.persistence.object_repository import NamedObject
    from fedafd.storage.store import get_verified

    for sha256 in public_sets:
        manifest = NamedObject(public_set_manifest(sha256), sha256)
        yield manifest
        if _problem(store, manifest) is None:
            for shard in read_manifest(get_verified(store, manifest.key, sha256)).shards:
                yield NamedObject(public_set_shard(sha256, shard.name), shard.sha256)


def _problem(store: ObjectStore, named: NamedObject) -> str | None:
    """What is wrong with an object, or None. Reads it in pieces: a model may be large."""
    from fedafd.domain.errors import ArtifactNotFoundError
    from fedafd.domain.hashing import pieces_sha256

    try:
        sha256 = pieces_sha256(store.stream(named.key))
    except ArtifactNotFoundError:
        return f"{named.key} is missing"
    return None if sha256 == named.sha256 else f"{named.key} has other content"
