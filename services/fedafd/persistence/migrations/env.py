"""Alembic runs this file for every command. `fedafd.persistence.migrate` hands over the connection it works on.

The whole run is one transaction on both databases. A second process that migrates at the same moment waits for the
first (SQLite: BEGIN IMMEDIATE; PostgreSQL: an advisory lock), then finds nothing left to do.
"""

from __future__ import annotations

from typing import Any

from alembic import context
from sqlalchemy import Connection, text

from fedafd.persistence.models import Base, UtcDateTime

_LOCK = 0x666564616664
"""Any constant of our own: the number of the advisory lock."""


def _options() -> dict[str, Any]:
    return {
        "target_metadata": Base.metadata,
        "render_as_batch": True,  # SQLite changes a table by copying it
        "transactional_ddl": True,
        "compare_type": True,
        "render_item": _render_item,
    }


def _render_item(kind: str, item: Any, _: Any) -> str | bool:
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"  # revisions do not depend on the code of today
    return False


def _online(connection: Connection) -> None:
    context.configure(connection=connection, **_options())
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        context.run_migrations()
        if connection.dialect.name == "sqlite":
            _check_references(connection)


def _check_references(connection: Connection) -> None:
    # Copying a table needs foreign keys switched off, so they are proven once at the end, before the commit.
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
    if broken:
        raise RuntimeError(f"a migration left rows that refer to nothing: {broken[:5]}")


def _offline() -> None:
    context.configure(dialect_name=context.config.attributes["dialect"], literal_binds=True, **_options())
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    _offline()
else:
    _online(context.config.attributes["connection"])
