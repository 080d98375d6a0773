"""Removes what rounds leave behind: the coordinator's sweep after each round, and `fedafd store prune` for all of them.

Rows go first, in one transaction, then the objects: who is killed in between leaves objects that nothing names, which
the next sweep or prune finds.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.aggregator.context import Context
from fedafd.aggregator.coordinator import Coordinator
from fedafd.aggregator.forgetting import forget_next
from fedafd.aggregator.orphans import Orphan, OrphanKind, orphans_of, unfinished_writes
from fedafd.artifacts.keys import FEDERATIONS, RoundObjects, personalized_model_file
from fedafd.domain.errors import FedafdError
from fedafd.persistence.artifact_repository import forget_artifacts
from fedafd.persistence.database import Database
from fedafd.persistence.federation_repository import federation_ids
from fedafd.persistence.models import RoundRow
from fedafd.persistence.orphan_repository import (
    cancel_left_stages,
    forgettable_artifacts,
    known_objects,
    mark_swept,
    next_unswept_round,
)
from fedafd.persistence.removal_repository import finish_removal, removals
from fedafd.persistence.retention_repository import apply_retention, let_go, let_go_models
from fedafd.storage import ObjectInfo, ObjectStore
from fedafd.telemetry.logging import bind_context, get_logger

__all__ = ["Amount", "prune", "remove_deleted", "sweep_next", "sweep_round", "sweep_rounds"]

_QUIET = 6
"""How many times rarer looks are without news: they find something only after a lost wake-up."""
_log = get_logger(__name__)


@dataclass
class Amount:
    """How many objects, and their bytes together."""

    objects: int = 0
    size_bytes: int = 0


async def sweep_rounds(
    context: Context, coordinator: Coordinator, *, seconds: float = 5.0, pause_seconds: float = 60.0
) -> None:
    """Sweep every round that is over and forget who is to be, while this aggregator coordinates; ends when cancelled.

    Looks every `seconds`; six times as seldom without any news while no round is open; `pause_seconds` after the
    database or the store refused.
    """
    with context.wakeups.of_rounds() as news:
        while True:
            pause, quiet = seconds, coordinator.idle
            if coordinator.leading:
                try:
                    while await sweep_next(context.database, context.store):
                        pass
                    while await forget_next(context.database, context.store):
                        pass
                    await remove_deleted(context.database, context.store)
                except Exception as error:
                    # Nothing waits for it: another try comes.
                    _log.warning("sweep.failed", reason=str(error) if isinstance(error, FedafdError) else repr(error))
                    pause = pause_seconds
            await news.rest(pause, max(pause, _QUIET * seconds if quiet else 0.0))


async def sweep_next(database: Database, store: ObjectStore) -> bool:
    """Sweep one round that is over; False if all were swept."""
    async with database.snapshot() as session:
        row = await next_unswept_round(session)
    if row is None:
        return False
    with bind_context(federation=row.federation_id, round_number=row.number):
        await sweep_round(database, store, row)
    return True


async def remove_deleted(database: Database, store: ObjectStore) -> None:
    """Remove the objects of federations that were deleted. Doing it again is harmless."""
    async with database.snapshot() as session:
        names = await removals(session)
    for name in names:
        objects_left = await asyncio.to_thread(_listed, store, f"{FEDERATIONS}{name}/")
        await asyncio.to_thread(_delete_keys, store, [entry.key for entry in objects_left])
        async with database.transaction() as session:
            await finish_removal(session, name)
        _log.info("federation.removed", federation=name, objects=len(objects_left))


async def sweep_round(database: Database, store: ObjectStore, row: RoundRow) -> Amount:
    """Remove what a round that is over left behind, and what its federation's retention lets go now that it is over.

    How much it was of this round; other rounds that retention takes something from are swept next. Doing it again is
    harmless.
    """
    async with database.transaction() as session:
        await cancel_left_stages(session, row.id)
        await forget_artifacts(session, await forgettable_artifacts(session, row.id))
        gone = await apply_retention(session, row.federation_id)
    # What is not deleted now is found below when its round is swept anew.
    await asyncio.to_thread(_delete_keys, store, [file.key for file in gone.files])
    async with database.snapshot() as session:
        known = await known_objects(session, row)
        clients = await let_go_models(session, row.id)
    amount = Amount()
    objects = RoundObjects(row.federation_id, row.number)
    of_sites = [personalized_model_file(row.federation_id, client, row.number, "") for client in clients]
    for prefix in (objects.artifacts, objects.model, *of_sites):
        orphans = list(orphans_of(await asyncio.to_thread(_listed, store, prefix), known))
        await asyncio.to_thread(_delete, store, orphans)
        for orphan in orphans:
            amount.objects += 1
            amount.size_bytes += orphan.size_bytes
    async with database.transaction() as session:
        await mark_swept(session, row.id)
    if amount.objects:
        _log.info("round.swept", objects=amount.objects, bytes=amount.size_bytes)
    return amount


async def prune(
    database: Database, store: ObjectStore, *, dry_run: bool = False, foreign: bool = False
) -> dict[OrphanKind, Amount]:
    """Remove all orphans, those of federations that the database does not know only with `foreign`; how much there was.

    Safe while the services run. With `dry_run` nothing is changed.
    """
    # First the objects, then the rows: what was written since is not looked at.
    listed = await asyncio.to_thread(_listed, store, FEDERATIONS)
    async with database.snapshot() if dry_run else database.transaction() as session:
        forgotten = await _let_go(session) if dry_run else await _forget(session)
        known = await known_objects(session)
    orphans = [*orphans_of(listed, known, forgotten), *unfinished_writes(store)]
    if not dry_run:
        kept = () if foreign else (OrphanKind.FOREIGN,)
        await asyncio.to_thread(_delete, store, [orphan for orphan in orphans if orphan.kind not in kept])
    amounts: defaultdict[OrphanKind, Amount] = defaultdict(Amount)
    for orphan in orphans:
        amounts[orphan.kind].objects += 1
        amounts[orphan.kind].size_bytes += orphan.size_bytes
    return dict(amounts)


async def _let_go(session: AsyncSession) -> dict[str, OrphanKind]:
    """Keys of what is named and not needed, and why."""
    forgotten: dict[str, OrphanKind] = {}
    for federation in await federation_ids(session):
        forgotten |= dict.fromkeys((await let_go(session, federation)).keys, OrphanKind.LET_GO)
    failed = await forgettable_artifacts(session)
    return forgotten | {row.key: OrphanKind.FAILED for row in failed}


async def _forget(session: AsyncSession) -> dict[str, OrphanKind]:
    """As `_let_go`, and name it no more."""
    await cancel_left_stages(session)
    failed = await forgettable_artifacts(session)
    forgotten = {row.key: OrphanKind.FAILED for row in failed}
    await forget_artifacts(session, failed)
    for federation in await federation_ids(session):
        gone = await apply_retention(session, federation)
        forgotten = dict.fromkeys(gone.keys, OrphanKind.LET_GO) | forgotten
    return forgotten


def _listed(store: ObjectStore, prefix: str) -> list[ObjectInfo]:
    return list(store.list(prefix))


def _delete_keys(store: ObjectStore, keys: Iterable[str]) -> None:
    for key in keys:
        store.delete(key)


def _delete(store: ObjectStore, orphans: Iterable[Orphan]) -> None:
    for orphan in orphans:
        store.delete(orphan.key)
