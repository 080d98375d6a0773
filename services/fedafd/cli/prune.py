"""`fedafd store prune`: remove what rounds left in the object store and nothing needs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedafd.cli.output_format import Output, OutputFormat, print_answer
from fedafd.cli.remote.output import print_table
from fedafd.domain.counted import byte_size

if TYPE_CHECKING:
    from fedafd.aggregator.orphans import OrphanKind
    from fedafd.aggregator.settings import StoredSettings
    from fedafd.aggregator.sweeping import Amount

__all__ = ["store_prune"]


def store_prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be removed, and remove nothing.")] = False,
    foreign: Annotated[
        bool,
        typer.Option("--foreign", help="Also remove objects of federations that the database does not know."),
    ] = False,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Remove objects that nothing needs: safe while the services run. Settings: FEDAFD_AGGREGATOR_*."""
    from fedafd.aggregator.orphans import OrphanKind
    from fedafd.aggregator.settings import load_stored_settings

    amounts = asyncio.run(_prune(load_stored_settings(), dry_run, foreign))
    if output.is_data:
        print_answer([_entry(kind, amounts[kind], dry_run, foreign) for kind in OrphanKind if kind in amounts], output)
        return
    rows = [
        (kind.value, amounts[kind].objects, byte_size(amounts[kind].size_bytes), _done(kind, dry_run, foreign))
        for kind in OrphanKind
        if kind in amounts
    ]
    print_table(("what", "objects", "size", ""), rows, "the store holds nothing that could be removed")


def _entry(kind: OrphanKind, amount: Amount, dry_run: bool, foreign: bool) -> dict[str, Any]:
    """One kind of objects for a script; `removed` is false for what a dry run tells, and for what was left."""
    from fedafd.aggregator.orphans import OrphanKind

    removed = not dry_run and (foreign or kind is not OrphanKind.FOREIGN)
    return {
        "kind": kind.name.lower(),
        "what": kind.value,
        "objects": amount.objects,
        "size_bytes": amount.size_bytes,
        "removed": removed,
    }


def _done(kind: OrphanKind, dry_run: bool, foreign: bool) -> str:
    from fedafd.aggregator.orphans import OrphanKind

    if kind is OrphanKind.FOREIGN and not foreign:
        return "left: is it the right database? --foreign removes them"
    return "would be removed" if dry_run else "removed"


async def _prune(settings: StoredSettings, dry_run: bool, foreign: bool) -> Mapping[OrphanKind, Amount]:
    from fedafd.aggregator.sweeping import prune
    from fedafd.persistence.database import Database
    from fedafd.persistence.migrate import check_schema
    from fedafd.storage import open_store

    store = open_store(settings.store)
    database = Database(settings.database_url.get_secret_value())
    try:
        await check_schema(database)
        return await prune(database, store, dry_run=dry_run, foreign=foreign)
    finally:
        await database.close()
