"""What the columns of a table seem to be, for a person to look at: the kind of client, and options of `table`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from fedafd.datasets.csv_files import SEPARATORS
from fedafd.datasets.folder_scan import ENDINGS
from fedafd.datasets.table_files import Table, chosen_files, read_table
from fedafd.datasets.table_labels import MARKS, YES_AND_NO
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import ClientKind

__all__ = ["table_hints"]

_LABELS = ("label", "labels", "class", "classes", "category", "categories", "tags", "target", "finding labels")
_LOOKED_AT = 50
_WORDS = 2
"""From how many words a cell, on average, a column counts as texts."""


def table_hints(folder: Path) -> tuple[ClientKind, dict[str, Any]] | None:
    """None where no table of the folder has a column of labels and one of pictures or texts."""
    read = _read(folder)
    if read is None:
        return None
    table, options = read
    columns = {name: [row[index].strip() for row in table.rows] for index, name in enumerate(table.header)}
    label = next((name for name in columns if name.casefold() in _LABELS), None)
    flags = [name for name, cells in columns.items() if all(cell.casefold() in YES_AND_NO for cell in cells)]
    if label is not None:
        options |= _label(label, columns.pop(label))
    elif len(flags) > 1:
        options["label_columns"] = flags
    else:
        return None
    others = {name: cells[:_LOOKED_AT] for name, cells in columns.items() if name not in flags}
    pictures = [name for name, cells in others.items() if all(_is_picture(cell) for cell in cells)]
    if pictures:
        return ClientKind.IMAGE, options | ({} if "image" in pictures else {"image_column": pictures[0]})
    if "text" in others:
        return ClientKind.TEXT, options
    name = max(others, key=lambda column: _words(others[column]), default=None)
    if name is None or _words(others[name]) < _WORDS:
        return None
    return ClientKind.TEXT, options | {"text_column": name}


def _read(folder: Path) -> tuple[Table, dict[str, Any]] | None:
    """The table to train on; with the delimiter, where it is not that of its ending."""
    for delimiter in (None, *SEPARATORS):
        try:
            table = read_table(chosen_files(folder, None)["train"], delimiter)
        except DataError:
            continue
        if len(table.header) > 1 and not any(cell.isdecimal() for cell in table.header):
            return table, {} if delimiter is None else {"delimiter": delimiter}
    return None


def _label(name: str, cells: Sequence[str]) -> dict[str, Any]:
    mark = next((mark for mark in MARKS if any(mark in cell for cell in cells)), None)
    return ({} if name == "label" else {"label_column": name}) | ({} if mark is None else {"label_separator": mark})


def _is_picture(cell: str) -> bool:
    return PurePosixPath(cell).suffix.lower() in ENDINGS


def _words(cells: Sequence[str]) -> float:
    return sum(len(cell.split()) for cell in cells) / len(cells)
