"""CSV files with a row of column names: which file is which split, and their rows as columns that know their lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from fedafd.datasets.csv_files import SEPARATORS, csv_rows
from fedafd.datasets.files import need_file, need_plain_path
from fedafd.datasets.parquet_files import SPLITS, Column
from fedafd.domain.errors import DataError

__all__ = ["Table", "chosen_files", "divided", "read_table"]

_ENDINGS = {".csv": ",", ".tsv": "\t"}
_SPLIT_NAMES = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validation", "dev"), "val"
)
_SHOWN = 5


@dataclass(frozen=True)
class _Lines(Column):
    """A column of a CSV file."""

    origins: tuple[str, ...]
    """File and line of each row."""

    def where(self, row: int) -> str:
        return f"{self.origins[row]}: column {self.name!r}"


@dataclass(frozen=True)
class Table:
    """Rows of one split."""

    path: Path
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    origins: tuple[str, ...]
    """File and line of each row."""

    def __len__(self) -> int:
        return len(self.rows)

    def cells(self, name: str, option: str) -> list[str]:
        """A column's cells. Raises DataError naming the `option` that says which column it is."""
        if name not in self.header:
            raise DataError(
                f"{self.path}: no column {name!r}; found {', '.join(self.header)}; options.{option} names another"
            )
        index = self.header.index(name)
        return [row[index] for row in self.rows]

    def column(self, name: str, values: Sequence[object], kind: pa.DataType) -> Column:
        """`values`, one for each row, as the column `name`."""
        return _Lines(name, list(values), (self.path,), (kind,), (len(self),), self.origins)

    def only(self, rows: Sequence[int]) -> Table:
        """Some of the rows."""
        return Table(
            self.path, self.header, tuple(self.rows[row] for row in rows), tuple(self.origins[row] for row in rows)
        )


def chosen_files(folder: Path, wanted: str | None) -> dict[str, Path]:
    """The file of each split that has one, or the one of all splits as `train`.

    Raises DataError where it is not clear which file that is.
    """
    if wanted is not None:
        return {"train": need_file(folder / need_plain_path(wanted, "data.options.file"), "table")}
    every = sorted(p for p in folder.iterdir() if p.suffix.lower() in _ENDINGS and not p.name.startswith("."))
    by_split: dict[str, Path] = {}
    for path in every:
        split = _SPLIT_NAMES.get(path.stem.casefold())
        if split in by_split:
            raise DataError(f"{folder}: {by_split[split].name} and {path.name} are both files of {split}; keep one")
        if split is not None:
            by_split[split] = path
    names = ", ".join(path.name for path in every[:_SHOWN]) or "none"
    if "train" in by_split:
        return {split: by_split[split] for split in SPLITS if split in by_split}
    if len(every) == 1 and not by_split:
        return {"train": every[0]}
    what = "set the option file to the table to read" if every else "add train.csv, or one table of all samples"
    raise DataError(f"{folder}: no train.csv, and not one table alone; tables found: {names}; {what}")


def read_table(path: Path, delimiter: str | None) -> Table:
    """A CSV file's rows below its header; blank lines are skipped. Raises DataError by file and line."""
    parted = delimiter or _ENDINGS.get(path.suffix.lower(), ",")
    lines = [(where, row) for where, row in csv_rows(path, "table", parted) if any(cell.strip() for cell in row)]
    if len(lines) < 2:
        raise DataError(f"{path}: {'has a header alone' if lines else 'is empty'}; needs column names, then a row each")
    (top, names), rows = lines[0], lines[1:]
    header = tuple(name.strip() for name in names)
    if len(header) == 1:
        other = next((mark for mark in (",", *SEPARATORS) if mark != parted and mark in header[0]), None)
        if other is not None:
            words = SEPARATORS.get(other, "commas")
            raise DataError(f"{top}: its fields are parted by {words}; set the option delimiter to {other!r}")
    for name in header:
        if header.count(name) > 1:
            fault = f"column {name!r} is there {header.count(name)} times" if name else "two columns have no name"
            raise DataError(f"{top}: {fault}; the first row must name each column once")
    for where, row in rows:
        if len(row) != len(header):
            raise DataError(
                f"{where}: has {len(row)} fields, but the header {len(header)}; put quotes around a field that holds"
                f" {SEPARATORS.get(parted, 'commas')}"
            )
    return Table(path, header, tuple(tuple(row) for _, row in rows), tuple(where for where, _ in rows))


def divided(table: Table, column: str) -> dict[str, Table]:
    """The rows of each split, as a column says. Raises DataError for a row of none."""
    rows: dict[str, list[int]] = {}
    for row, cell in enumerate(table.cells(column, "split_column")):
        split = _SPLIT_NAMES.get(cell.strip().casefold())
        if split is None:
            raise DataError(
                f"{table.origins[row]}: column {column!r} is {cell[:40]!r}; must be train, val or test; where it is no"
                " split, set options.split_column to null"
            )
        rows.setdefault(split, []).append(row)
    if "train" not in rows:
        raise DataError(f"{table.path}: no row of split train in column {column!r}")
    return {split: table.only(rows[split]) for split in SPLITS if split in rows}
