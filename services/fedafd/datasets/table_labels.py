"""Labels of a table: one class in each cell, several parted by a mark, or a column of 0 and 1 for each label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from fedafd.datasets.label_lists import column_labels
from fedafd.datasets.labels import Labels
from fedafd.datasets.parquet_files import Column, need_filled
from fedafd.datasets.table_files import Table
from fedafd.datasets.texts import normal_name
from fedafd.domain.errors import DataError

__all__ = ["MARKS", "YES_AND_NO", "table_labels"]

Named = tuple[tuple[str, ...], dict[str, Labels], tuple[str, ...]]
"""Label names, each split's labels, and notes."""
MARKS = ("|", ";")
"""What parts labels in a cell, and is rare in the names of classes."""
YES_AND_NO = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


def table_labels(
    tables: Mapping[str, Table],
    *,
    column: str,
    separator: str | None,
    columns: Sequence[str] | None,
    no_label: str | None,
) -> Named:
    """Names, labels and notes; of `columns` and with a `separator` as sets. Raises DataError by file and line."""
    if columns is not None:
        return _of_columns(tables, columns)
    cells = {split: table.cells(column, "label_column") for split, table in tables.items()}
    if separator is not None:
        parted = {
            split: _parted(tables[split], column, split_cells, separator, no_label)
            for split, split_cells in cells.items()
        }
        return column_labels(parted)
    single = {
        split: need_filled(tables[split].column(column, [cell.strip() or None for cell in split_cells], pa.string()))
        for split, split_cells in cells.items()
    }
    names, labels, notes = column_labels(single)
    return names, labels, (*notes, *_marks_in(names))


def _parted(table: Table, name: str, cells: Sequence[str], separator: str, no_label: str | None) -> Column:
    values = []
    for row, cell in enumerate(cells):
        whole = cell.strip()
        parts = [] if whole == "" or whole == no_label else whole.split(separator)
        if no_label is not None and no_label in (part.strip() for part in parts):
            raise DataError(
                f"{table.origins[row]}: column {name!r} is {cell[:60]!r}: {no_label!r} stands for no label, but is"
                " beside others; remove one of them"
            )
        values.append(parts)
    return table.column(name, values, pa.list_(pa.string()))


def _of_columns(tables: Mapping[str, Table], columns: Sequence[str]) -> Named:
    names = {column: normal_name(column, "data.options.label_columns") for column in columns}
    columns_of = {}
    for split, table in tables.items():
        rows: list[list[str]] = [[] for _ in range(len(table))]
        for column in columns:
            for row, cell in enumerate(table.cells(column, "label_columns")):
                if _is_set(cell, f"{table.origins[row]}: column {column!r}"):
                    rows[row].append(names[column])
        columns_of[split] = table.column("label_columns", rows, pa.list_(pa.string()))
    labelled, labels, notes = column_labels(columns_of)
    never = [repr(name) for name in names.values() if name not in labelled]
    note = (f"left out for want of any sample: label {', '.join(never)}",) if never else ()
    return labelled, labels, (*notes, *note)


def _is_set(cell: str, where: str) -> bool:
    flag = YES_AND_NO.get(cell.strip().casefold())
    if flag is None:
        what = f"is {cell[:40]!r}" if cell.strip() else "has an empty cell"
        raise DataError(f"{where} {what}; must be 0 or 1, true or false")
    return flag


def _marks_in(names: Sequence[str]) -> tuple[str, ...]:
    """A note where classes look like several labels in one cell."""
    for mark in MARKS:
        with_mark = [name for name in names if mark in name]
        if with_mark:
            return (
                f"{len(with_mark)} classes hold {mark!r}, such as {with_mark[0]!r}; if a cell holds several labels, set"
                f" the option label_separator to {mark!r}",
            )
    return ()
