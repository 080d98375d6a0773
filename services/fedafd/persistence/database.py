"""Engines and sessions for SQLite and PostgreSQL.

SQLite runs in WAL mode. What may write begins with BEGIN IMMEDIATE, so that several processes on one machine take turns
instead of failing; what only reads waits for nobody. PostgreSQL runs at READ COMMITTED, which the guarded updates are
written for, and reads from one snapshot.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from time import monotonic
from typing import Any, cast

from sqlalchemy import CursorResult, Engine, Update, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    IntegrityError,
    InterfaceError,
    InternalError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

from fedafd.domain.errors import (
    ConcurrentChangeError,
    ConfigurationError,
    DatabaseUnavailableError,
    FedafdError,
    InvalidRequestError,
)
from fedafd.persistence.clock import shared_clock
from fedafd.persistence.event_repository import forget_head, log_head, write_recorded_events
from fedafd.persistence.sqlite_driver import DRIVER
from fedafd.telemetry.logging import get_logger

__all__ = ["Database", "affected_rows", "driver_url", "first_line", "set_up_sqlite", "shown_url"]

_READS_ONLY = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
"""Execution options of PostgreSQL's transactions that only read."""
_LINE = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 15_000,
}
"""Of libpq: a line to PostgreSQL that leads nowhere is given up after about 20 s, not after the many minutes of TCP."""
_IDLE_TRANSACTION_SECONDS = 10
"""PostgreSQL ends a transaction of ours that is idle for this long: a process that is frozen or cut off
would hold its locks, such as that on the coordinator's lease, for as long as the server believes in its line."""
_IDLE_TRANSACTION = "25P03"
"""What it says then."""
_TURN_SECONDS = 30
_POOL_SECONDS = 10
"""How long a call waits for a connection before it is refused and has to be repeated."""
_log = get_logger(__name__)
_DRIVERS = {"sqlite": DRIVER, "postgresql": "psycopg", "postgres": "psycopg"}


def driver_url(url: str, *, asynchronous: bool = True) -> URL:
    """`url` with the driver we use. Raises ConfigurationError for what is no URL and for other kinds of databases."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigurationError(
            "database URL: not a URL; use sqlite:///path/to/file.db or postgresql://user:password@host/name"
        ) from None
    dialect = parsed.drivername.partition("+")[0]
    if dialect not in _DRIVERS:
        raise ConfigurationError(f"database URL: {dialect} is not supported; use sqlite or postgresql", dialect=dialect)
    name = "sqlite" if dialect == "sqlite" else "postgresql"
    driver = "pysqlite" if name == "sqlite" and not asynchronous else _DRIVERS[dialect]
    return parsed.set(drivername=f"{name}+{driver}")


def shown_url(url: URL) -> str:
    """`url` for people: as they write it, without the driver and the password."""
    return url.set(drivername=url.get_backend_name()).render_as_string(hide_password=True)


class _AuditedSession(Session):
    """A session that writes its audit events last."""


event.listen(_AuditedSession, "before_commit", write_recorded_events)
event.listen(_AuditedSession, "after_commit", log_head)
event.listen(_AuditedSession, "after_rollback", forget_head)


class Database:
    """One database and its sessions. `reading_engine` is for transactions that only read.

    `url` is `sqlite:///path/to/file.db` or `postgresql://user:password@host:port/name`.
    Raises ConfigurationError for any other kind of database.
    """

    def __init__(self, url: str) -> None:
        self.url = driver_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        options: dict[str, Any] = (
            {"connect_args": {"timeout": 30}} if self.is_sqlite else {"pool_pre_ping": True, "connect_args": _LINE}
        )
        # The connection that was used last comes first: it has the newest pages in its cache.
        options |= {"pool_timeout": _POOL_SECONDS, "pool_use_lifo": True}
        self.engine: AsyncEngine = create_async_engine(self.url, **options)
        if self.is_sqlite:
            self.reading_engine = create_async_engine(self.url, **options)
            set_up_sqlite(self.engine.sync_engine, foreign_keys=True)
            set_up_sqlite(self.reading_engine.sync_engine, foreign_keys=True, reads_only=True)
        else:
            _set_up_postgresql(self.engine.sync_engine)
            self.reading_engine = self.engine.execution_options(**_READS_ONLY)
        self._writing = asyncio.Lock()
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False, sync_session_class=_AuditedSession)
        self._readers = async_sessionmaker(self.reading_engine, expire_on_commit=False)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """A session that commits when the block ends and rolls back when it raises.

        Raises ConcurrentChangeError when another transaction, which committed first, holds a name or number that this
        one was about to take, InvalidRequestError for a value that the database does not hold (a NUL character, a text
        that is too long), and DatabaseUnavailableError when the database is away or too busy, or no connection is free.
        """
        with _translated():
            async with self._turn(), self._sessions.begin() as session:
                yield session

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncSession]:
        """A session that only reads, all of it as of one moment, and on SQLite without waiting for who writes.

        Raises DatabaseUnavailableError when the database is away. An attempt to write fails.
        """
        with _translated():
            async with self._readers.begin() as session:
                yield session

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """On SQLite one of this process writes at a time, in the order of asking; who waits holds no connection.

        SQLite's own waiting is a sleep in a thread, after which whoever comes first is next: with many writers some
        wait for long, and with them all connections.
        """
        if not self.is_sqlite:
            yield
            return
        try:
            async with asyncio.timeout(_TURN_SECONDS):
                await self._writing.acquire()
        except TimeoutError:
            raise DatabaseUnavailableError("the database is too busy with other writers; try again") from None
        try:
            yield
        finally:
            self._writing.release()

    async def ping(self) -> None:
        """Raise DatabaseUnavailableError unless the database answers.

        A server also tells the time, by which this process goes from then on.
        """
        asked_at = monotonic()
        with _translated():
            now = await self._asked_time()
        if now is not None:
            shared_clock.set(now, asked_at)

    async def _asked_time(self) -> datetime | None:
        async with self.reading_engine.connect() as connection:
            if self.is_sqlite:  # the processes of one machine share its clock
                await connection.execute(text("SELECT 1"))
                return None
            return cast("datetime", await connection.scalar(text("SELECT clock_timestamp()")))

    async def keep_time(self, seconds: float = 30.0) -> None:
        """Look at the database's clock, now and again and again, until cancelled; one that is away is asked later."""
        while not self.is_sqlite:
            with suppress(FedafdError, SQLAlchemyError, OSError):
                await self.ping()
            await asyncio.sleep(seconds)

    async def close(self) -> None:
        """Close all connections."""
        await self.engine.dispose()
        await self.reading_engine.dispose()


async def affected_rows(session: AsyncSession, statement: Update, values: Mapping[str, Any] | None = None) -> int:
    """Execute a guarded UPDATE with `values` for its parameters; how many rows it found. 0 means that the guard held it
    back."""
    result = await session.execute(statement, values, execution_options={"synchronize_session": False})
    return cast("CursorResult[Any]", result).rowcount


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        if not _is_taken(error):
            raise
        raise ConcurrentChangeError("somebody else changed the same thing at this moment; repeat it") from error
    except DataError as error:
        raise InvalidRequestError(f"a value cannot be stored: {first_line(error)}") from error
    except (OperationalError, InterfaceError, InternalError) as error:
        if isinstance(error, InternalError) and getattr(error.orig, "sqlstate", None) != _IDLE_TRANSACTION:
            raise
        # Callers learn that it failed, the log why: the driver may name hosts, files and users.
        _log.warning("database.failed", reason=first_line(error))
        raise DatabaseUnavailableError("the database cannot be reached, or is too busy; try again") from error
    except PoolTimeoutError as error:
        _log.warning("database.no_connection_free", waited_seconds=_POOL_SECONDS)
        raise DatabaseUnavailableError("all connections to the database are in use; try again") from error


def first_line(error: Exception) -> str:
    """What the driver says, without the statement and the parameters that SQLAlchemy adds."""
    cause = getattr(error, "orig", None) or error
    return str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__


def _is_taken(error: IntegrityError) -> bool:
    return getattr(error.orig, "sqlstate", None) == "23505" or "UNIQUE constraint failed" in str(error.orig)


def _set_up_postgresql(engine: Engine) -> None:
    """Give each connection its limit, by a statement: what stands between us and the server may know no options."""

    def connect(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(f"SET idle_in_transaction_session_timeout = '{_IDLE_TRANSACTION_SECONDS}s'")
        cursor.close()
        connection.commit()

    event.listen(engine, "connect", connect)


def set_up_sqlite(engine: Engine, *, foreign_keys: bool, reads_only: bool = False) -> None:
    """Make each connection of a SQLite engine use WAL, and each transaction take its turn at writing from the start.

    With `reads_only` its connections cannot write, and wait for nobody.
    """
    pragmas = ["journal_mode=WAL", "synchronous=NORMAL", f"foreign_keys={int(foreign_keys)}", "busy_timeout=30000"]
    if reads_only:
        # A mode of the connection, not of each transaction: setting it costs as much as a statement.
        pragmas.append("query_only=1")

    def connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy says when a transaction begins, not the driver
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")

    event.listen(engine, "connect", connect)
    event.listen(engine, "begin", begin)
