"""A data adapter of one's own: texts and their classes from a table of an SQLite database, opened to read only.

The table has columns `text`, `class` and `split`, the last of which is train, val or test.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from fedafd.datasets import ClientData, PairSplit, TextSplit
from fedafd.domain.errors import ConfigurationError, DataError
from fedafd.domain.kinds import ClientKind

__all__ = ["SqliteTexts"]

SPLITS = ("train", "val", "test")


class SqliteTexts:
    """Option: `table`, `reports` if not given."""

    def client(self, path: Path | None, kind: ClientKind, options: Mapping[str, Any]) -> ClientData:
        """Raises ConfigurationError for another kind or option, DataError for what the database lacks."""
        if kind is not ClientKind.TEXT or path is None:
            raise ConfigurationError("data adapter sqlite: serves clients of kind text, from the file data.path")
        table = str(options.get("table", "reports"))
        if set(options) - {"table"} or not re.fullmatch(r"\w+", table):
            raise ConfigurationError("data.options: sqlite has one option, table, a name of letters, digits and _")
        rows = {split: self._rows(path, table, split) for split in SPLITS}
        names = tuple(sorted({name for _, name in rows["train"]}))
        if len(names) < 2:
            raise DataError(f"{path}: table {table}: needs two or more classes in split train, found {len(names)}")
        made = {split: self._split(rows[split], names, f"{path}: table {table}, split {split}") for split in SPLITS}
        return ClientData(kind, made["train"], made["val"], made["test"], names)

    def public(self, path: Path | None, options: Mapping[str, Any]) -> dict[str, PairSplit]:
        """It holds no pairs."""
        raise ConfigurationError("data adapter sqlite: holds no image-caption pairs, so it is no public set")

    def _rows(self, path: Path, table: str, split: str) -> list[tuple[str, str]]:
        # In a fixed order: results repeat only if samples come in the same order each time.
        query = f'SELECT text, class FROM "{table}" WHERE split = ? ORDER BY rowid'
        try:
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
                rows = database.execute(query, (split,)).fetchall()
        except sqlite3.Error as error:
            raise DataError(f"{path}: table {table} cannot be read: {error}") from None
        if not rows:
            raise DataError(f"{path}: table {table} has no row of split {split}")
        return [(str(text), str(name)) for text, name in rows]

    def _split(self, rows: list[tuple[str, str]], names: tuple[str, ...], place: str) -> TextSplit:
        unknown = sorted({name for _, name in rows} - set(names))
        if unknown:
            raise DataError(f"{place}: class {', '.join(unknown)} has no training sample")
        numbers = np.array([names.index(name) for _, name in rows], dtype=np.int64)
        return TextSplit([text for text, _ in rows], numbers)
