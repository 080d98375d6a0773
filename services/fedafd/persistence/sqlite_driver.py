"""aiosqlite for SQLAlchemy, with the connection's thread only for what may wait.

SQLAlchemy's own way takes four hops to that thread for a statement: a cursor, its execution, its rows, its end. A hop
wakes a thread and then the event loop, which costs more than most statements do, and on a busy machine a hundred times
as much. Here what waits for other writers (BEGIN IMMEDIATE) or for the disk (the COMMIT of what was written, PRAGMA) is
one hop, and all else runs at once: in WAL mode readers wait for nobody, nor does a writer whose turn has come.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Sequence
from typing import Any

from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.aiosqlite import (
    AsyncAdapt_aiosqlite_connection,
    AsyncAdapt_aiosqlite_cursor,
    AsyncAdapt_aiosqlite_dbapi,
    SQLiteDialect_aiosqlite,
)
from sqlalchemy.util import EMPTY_DICT

__all__ = ["DRIVER", "SQLiteDialect"]

DRIVER = "fedafd"
"""Of a URL, `sqlite+fedafd:///path`."""


_WAITS = ("BEGIN IMMEDIATE", "PRAGMA")


class _Ended:
    """What is left of a cursor once its rows were fetched."""

    description: Any = None
    rowcount = -1
    lastrowid: int | None = None
    arraysize = 1

    def close(self) -> None:
        """Nothing is open."""


class _Cursor(AsyncAdapt_aiosqlite_cursor):
    __slots__ = ()
    _awaitable_cursor_close = False
    _cursor: Any

    def __init__(self, adapt_connection: Any) -> None:
        # Not as the base class does, which has the thread make one.
        self._adapt_connection, self._connection = adapt_connection, adapt_connection._connection
        self._cursor, self._rows, self._soft_closed_memoized = _Ended(), deque(), EMPTY_DICT

    async def _execute_async(self, operation: Any, parameters: Any) -> Any:
        return await self._run("execute", operation, () if parameters is None else parameters)

    async def _executemany_async(self, operation: Any, seq_of_parameters: Any) -> Any:
        return await self._run("executemany", operation, seq_of_parameters)

    async def _run(self, method: str, operation: str, given: Any) -> Any:
        adapter: Any = self._adapt_connection
        connection = adapter._connection
        async with adapter._execute_mutex:
            if operation.startswith(_WAITS):
                adapter.has_turn = True
                self._cursor, rows = await connection._execute(_run_all, connection._conn, method, operation, given)
            else:
                self._cursor, rows = _run_all(connection._conn, method, operation, given)
        self._rows = deque(rows)
        return self


def _run_all(connection: sqlite3.Connection, method: str, operation: str, given: Any) -> tuple[_Ended, Sequence[Any]]:
    cursor = getattr(connection, method)(operation, given)
    try:
        rows = cursor.fetchall() if cursor.description else ()
        ended = _Ended()
        ended.description, ended.rowcount, ended.lastrowid = cursor.description, cursor.rowcount, cursor.lastrowid
        return ended, rows
    finally:
        cursor.close()


class _Connection(AsyncAdapt_aiosqlite_connection):
    __slots__ = ("has_turn",)
    _cursor_cls = _Cursor
    has_turn: bool
    """Whether the transaction may have written, or its thread may be at work on it: so it ends there, too."""

    def __init__(self, dbapi: Any, connection: Any) -> None:
        super().__init__(dbapi, connection)
        self.has_turn = True

    def commit(self) -> None:
        self._end("commit")

    def rollback(self) -> None:
        self._end("rollback")

    def _end(self, method: str) -> None:
        connection: Any = self._connection
        if self.has_turn or not connection._connection:
            getattr(super(), method)()
            self.has_turn = False
            return
        try:
            getattr(connection._connection, method)()
        except Exception as error:
            self._handle_exception(error)


class _Driver(AsyncAdapt_aiosqlite_dbapi):
    def connect(self, *given: Any, **options: Any) -> AsyncAdapt_aiosqlite_connection:
        connection = super().connect(*given, **options | {"check_same_thread": False})
        return _Connection(self, connection._connection)


class SQLiteDialect(SQLiteDialect_aiosqlite):
    """SQLAlchemy's dialect of aiosqlite with the cursor above."""

    driver = DRIVER
    supports_statement_cache = True

    @classmethod
    def import_dbapi(cls) -> AsyncAdapt_aiosqlite_dbapi:
        return _Driver(__import__("aiosqlite"), sqlite3)


registry.register(f"sqlite.{DRIVER}", __name__, SQLiteDialect.__name__)
