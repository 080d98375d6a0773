"""Brings a database to a revision of the schema, and says at which one it is.

Revisions lie in `fedafd.persistence.migrations`. A database that was made before there were revisions (tables, but no
`alembic_version`) is recognised by its tables and columns and counts as the first revision; anything else that holds
tables of those names is refused.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, inspect
from sqlalchemy.exc import DBAPIError

from fedafd.domain.errors import DatabaseUnavailableError, SchemaError
from fedafd.persistence.database import Database, driver_url, first_line, set_up_sqlite, shown_url

__all__ = [
    "BASE",
    "check_schema",
    "current_revision",
    "head_revision",
    "migrate",
    "migration_sql",
    "revisions",
    "schema_problem",
]

BASE = "base"
"""The revision of an empty database."""
_FIRST = "0001"
_RUN = "run `fedafd migrate`"


def revisions() -> list[str]:
    """All revisions, oldest first."""
    return list(_revisions())


def head_revision() -> str:
    """The revision that this program works on."""
    return revisions()[-1]


def current_revision(url: str) -> str | None:
    """The revision of the database; None for an empty one.

    Raises ConfigurationError for a wrong URL, DatabaseUnavailableError, and SchemaError for tables that are not ours.
    """
    with _connected(url) as connection:
        return _current(connection)


def migrate(url: str, revision: str = "head") -> tuple[str, str]:
    """Bring the database to `revision` (`head`, `base` or a number), up or down; where it was, and where it is.

    All of it happens or nothing. Raises SchemaError for an unknown revision, for a downgrade that would lose data, and
    as `current_revision` does.
    """
    target = _resolved(revision)
    with _connected(url) as connection:
        before = _current(connection)
        _refuse_newer(before)
        if before == _FIRST and not _has_version(connection):
            _stamp(connection, _FIRST)
        order = [BASE, *revisions()]
        _run(connection, target, forward=order.index(target) >= order.index(before or BASE))
        return before or BASE, _current(connection) or BASE


def migration_sql(url: str, revision: str = "head") -> str:
    """The SQL that `migrate` would run on this database, as text; nothing is changed.

    Raises SchemaError as `migrate` does.
    """
    target = _resolved(revision)
    with _connected(url) as connection:
        before = _current(connection) or BASE
        dialect = connection.dialect.name
        if before == _FIRST and not _has_version(connection):
            raise SchemaError(f"the revision is not recorded yet: `fedafd migrate --revision {_FIRST}` does only that")
    _refuse_newer(before)
    output = io.StringIO()
    config = _config()
    config.output_buffer = output
    config.attributes["dialect"] = dialect
    order = [BASE, *revisions()]
    if order.index(target) > order.index(before):
        command.upgrade(config, f"{before}:{target}", sql=True)
    elif target != before:
        command.downgrade(config, f"{before}:{target}", sql=True)
    return output.getvalue()


async def schema_problem(database: Database, *, newer_is_fine: bool = False) -> str | None:
    """What keeps this program from working on the database, with what to do about it; None if nothing does.

    A process that is running already goes on with `newer_is_fine`: migrations come before a rollout. Raises what the
    driver raises when the database cannot be reached.
    """

    def look(connection: Connection) -> tuple[str | None, bool]:
        return _current(connection), _has_version(connection)

    try:
        async with database.reading_engine.connect() as connection:
            revision, stamped = await connection.run_sync(look)
    except SchemaError as error:
        return str(error)
    if revision is not None and revision not in revisions():
        return None if newer_is_fine else _newer(revision)
    if revision == head_revision() and stamped:
        return None
    state = "is empty" if revision is None else f"is at revision {revision}"
    return f"the database {state}, this program needs revision {head_revision()}; {_RUN} first"


async def check_schema(database: Database) -> None:
    """Raise SchemaError unless the database is at this program's revision, DatabaseUnavailableError if it is away."""
    try:
        problem = await schema_problem(database)
    except (DBAPIError, OSError) as error:
        raise DatabaseUnavailableError(f"{_shown(database)}: cannot be reached: {first_line(error)}") from None
    if problem:
        raise SchemaError(f"{_shown(database)}: {problem}")


@contextmanager
def _connected(url: str) -> Iterator[Connection]:
    engine = _engine(url)
    address = shown_url(engine.url)
    try:
        try:
            connection = engine.connect()
        except DBAPIError as error:
            raise DatabaseUnavailableError(f"{address}: cannot be reached: {first_line(error)}") from None
        with connection:
            yield connection
    except DBAPIError as error:
        raise SchemaError(f"{address}: failed, nothing was changed: {first_line(error)}") from error
    except CommandError as error:
        raise SchemaError(f"{address}: {error}") from None
    finally:
        engine.dispose()


def _engine(url: str) -> Engine:
    parsed = driver_url(url, asynchronous=False)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed)
    engine = create_engine(parsed, connect_args={"timeout": 60})
    # Foreign keys stay off here: a table that is copied is dropped for a moment.
    set_up_sqlite(engine, foreign_keys=False)
    return engine


def _current(connection: Connection) -> str | None:
    revision = MigrationContext.configure(connection).get_current_revision()
    names = set(inspect(connection).get_table_names())
    connection.rollback()
    if revision is not None or not names:
        return revision
    first, ours = _first_schema(), _columns(connection)
    connection.rollback()
    if not names & set(first):
        return None
    differing = sorted(name for name, columns in first.items() if ours.get(name) != columns)
    if not differing:
        return _FIRST
    raise SchemaError(
        "the database holds tables of ours without a revision, and they are not those of any version: "
        f"{', '.join(differing)} differ; restore a backup, or give FedAFD a database of its own"
    )


def _first_schema() -> dict[str, set[str]]:
    """Tables and columns of the first revision, from making them."""
    engine = _engine("sqlite://")
    with engine.connect() as connection:
        _run(connection, _FIRST)
        by_table = _columns(connection)
    engine.dispose()
    return {name: columns for name, columns in by_table.items() if name != "alembic_version"}


def _columns(connection: Connection) -> dict[str, set[str]]:
    look = inspect(connection)
    return {name: {column["name"] for column in look.get_columns(name)} for name in look.get_table_names()}


def _stamp(connection: Connection, revision: str) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.stamp(config, revision)


def _run(connection: Connection, target: str, *, forward: bool = True) -> None:
    config = _config()
    config.attributes["connection"] = connection
    (command.upgrade if forward else command.downgrade)(config, target)


def _has_version(connection: Connection) -> bool:
    has_version = inspect(connection).has_table("alembic_version")
    connection.rollback()
    return has_version


def _refuse_newer(revision: str | None) -> None:
    if revision not in (None, BASE) and revision not in revisions():
        raise SchemaError(_newer(str(revision)))


def _newer(revision: str) -> str:
    return f"the database is at revision {revision}, which this program does not know; install the newer FedAFD"


def _resolved(revision: str) -> str:
    known = revisions()
    target = known[-1] if revision == "head" else revision
    if target not in (BASE, *known):
        raise SchemaError(f"revision {revision!r}: there is no such; there are {BASE}, {', '.join(known)} and head")
    return target


@functools.cache
def _revisions() -> tuple[str, ...]:
    # Alembic runs every revision's file to say this, and readiness asks for it each time.
    return tuple(script.revision for script in _scripts().walk_revisions())[::-1]


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _shown(database: Database) -> str:
    return shown_url(database.url)
