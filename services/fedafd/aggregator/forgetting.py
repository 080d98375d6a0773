"""Deletes what clients sent, where somebody asked for it and no running round has them; killed, it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from fedafd.persistence.database import Database
from fedafd.persistence.forgetting_repository import finish_forgetting, forget_rows, next_to_forget
from fedafd.storage import ObjectStore
from fedafd.telemetry.logging import bind_context, get_logger

__all__ = ["forget_next"]

_log = get_logger(__name__)


async def forget_next(database: Database, store: ObjectStore) -> bool:
    """Forget one client that waits for it; False if none does."""
    async with database.transaction() as session:
        row = await next_to_forget(session)
        keys = () if row is None else await forget_rows(session, row)
    if row is None:
        return False
    await asyncio.to_thread(_delete, store, keys)
    async with database.transaction() as session:
        receipt = await finish_forgetting(session, row)
    if receipt is not None:
        with bind_context(federation=row.federation_id):
            _log.info("client.forgotten", client=row.name, objects=receipt["objects"], bytes=receipt["size_bytes"])
    return True


def _delete(store: ObjectStore, keys: Iterable[str]) -> None:
    for key in keys:
        store.delete(key)
