"""Databases at the newest revision of the schema, without running every migration for each test."""

from __future__ import annotations

import functools
import sqlite3
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from sqlalchemy.engine import make_url

from fedafd.persistence.migrate import migrate, migration_sql

__all__ = ["migrated", "own_database"]


@contextmanager
def own_database(postgres: Callable[[], str]) -> Iterator[str]:
    """The URL of a fresh, empty PostgreSQL database, which is dropped at the end."""
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(postgres(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    yield make_url(postgres()).set(database=name).render_as_string(hide_password=False)
    with psycopg.connect(postgres(), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def migrated(url: str) -> None:
    """What `migrate` leaves of an empty database; one that is there already is migrated."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        file = Path(parsed.database or "")
        if file.exists():
            migrate(url)
        else:
            file.write_bytes(_sqlite())
        return
    address = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address, autocommit=True) as connection:
        if connection.execute("SELECT to_regclass('alembic_version')").fetchone() == (None,):
            connection.execute(_postgresql(url).encode())
            return
    migrate(url)


@functools.cache
def _sqlite() -> bytes:
    with tempfile.TemporaryDirectory(prefix="fedafd-schema-") as folder:
        file = Path(folder) / "new.db"
        migrate(f"sqlite:///{file}")
        with sqlite3.connect(file) as connection:
            content = connection.serialize()
        connection.close()
        return content


_scripts: list[str] = []


def _postgresql(url: str) -> str:
    # The same for every empty database.
    if not _scripts:
        _scripts.append(migration_sql(url))
    return _scripts[0]
