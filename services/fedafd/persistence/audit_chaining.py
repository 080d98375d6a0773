"""Gives entries of the audit log their hashes, under the lock under which entries are written.

Used by each write, and by the migration for what was there before. What a replica of an older version wrote during a
rolling upgrade has no hash; the next write chains it first, so that the chain has no gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from fedafd.domain.audit_chain import START, AuditEntry, Head, entry_hash
from fedafd.persistence.models.base import UtcDateTime

__all__ = ["chain_events"]

_BATCH = 500
_EVENTS = sa.table(
    "events",
    *(sa.column(name, sa.String) for name in ("federation_id", "kind", "actor", "address", "hash")),
    sa.column("id", sa.BigInteger),
    sa.column("at", UtcDateTime),
    sa.column("data", sa.JSON),
)
_SET_HASH = sa.update(_EVENTS).where(_EVENTS.c.id == sa.bindparam("of")).values(hash=sa.bindparam("new_hash"))
_LAST_HASHED = (
    sa.select(_EVENTS.c.id, _EVENTS.c.hash).where(_EVENTS.c.hash.is_not(None)).order_by(_EVENTS.c.id.desc()).limit(1)
)


def chain_events(connection: Connection, *, addresses: bool = True) -> Head | None:
    """Hash every entry behind the last one that has a hash; the head then, None for an empty log.

    `addresses` is False for a schema from before entries had them.
    """
    last = connection.execute(_LAST_HASHED).one_or_none()
    head = None if last is None else Head(id=last.id, hash=last.hash)
    while True:
        after = {"last": head.id if head else 0, "most": _BATCH}
        rows = connection.execute(_unhashed(addresses), after).all()
        if rows:
            head = _chain(connection, head, rows, addresses)
        if len(rows) < _BATCH:
            return head


@cache
def _unhashed(addresses: bool) -> sa.Select[Any]:
    columns = [column for column in _EVENTS.c if addresses or column.name != "address"]
    behind = sa.select(*columns).where(_EVENTS.c.id > sa.bindparam("last"))
    return behind.order_by(_EVENTS.c.id).limit(sa.bindparam("most"))


def _chain(connection: Connection, head: Head | None, rows: Sequence[Any], addresses: bool) -> Head | None:
    hashed = []
    for row in rows:
        entry = AuditEntry(
            id=row.id,
            at=row.at,
            federation=row.federation_id,
            kind=row.kind,
            actor=row.actor,
            address=row.address if addresses else None,
            data=row.data or {},
        )
        head = Head(id=row.id, hash=entry_hash(head.hash if head else START, entry))
        hashed.append({"of": head.id, "new_hash": head.hash})
    connection.execute(_SET_HASH, hashed)
    return head
