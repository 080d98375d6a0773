"""Label columns in both forms: one label in each cell, or a list of them, which may be empty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import pyarrow as pa

from fedafd.datasets.labels import Labels, label_sets
from fedafd.datasets.parquet_files import Column
from fedafd.datasets.parquet_labels import ClassNames, named_labels
from fedafd.domain.errors import DataError

__all__ = ["column_labels"]

_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, pa.types.is_list_view)


@dataclass(frozen=True)
class _Elements(Column):
    """The elements of all cells of a column of lists, each with the place of its cell."""

    cells: Column
    rows: tuple[int, ...]
    """The cell of each element."""

    def where(self, row: int) -> str:
        """Of the cell that the element is in."""
        return self.cells.where(self.rows[row])


def column_labels(
    columns: Mapping[str, Column], class_label: ClassNames | None = None
) -> tuple[tuple[str, ...], dict[str, Labels], tuple[str, ...]]:
    """Class names, each split's labels, and notes; of lists as sets [n, C]. `class_label`: as named_labels takes it.

    Raises DataError for splits of both forms, an empty element, and what named_labels refuses.
    """
    forms = {split: [_is_list(kind) for kind in column.types] for split, column in columns.items()}
    if not any(any(kinds) for kinds in forms.values()):
        names, numbers, notes = named_labels(columns, class_label)
        return (
            names,
            {split: np.array(label_numbers, dtype=np.int64) for split, label_numbers in numbers.items()},
            notes,
        )
    for split, column in columns.items():
        for file, is_list in zip(column.files, forms[split], strict=True):
            if not is_list:
                raise DataError(
                    f"{file}: column {column.name!r} holds one label a sample, but lists of labels elsewhere; write all"
                    " alike"
                )
    elements = {split: _elements(column) for split, column in columns.items()}
    names, numbers, notes = named_labels(elements, class_label)
    labels: dict[str, Labels] = {}
    for split, column in columns.items():
        label_rows: list[list[int]] = [[] for _ in column.values]
        for row, number in zip(elements[split].rows, numbers[split], strict=True):
            label_rows[row].append(number)
        labels[split] = label_sets(label_rows, len(names))
    return names, labels, notes


def _is_list(kind: pa.DataType) -> bool:
    return any(test(kind) for test in _LISTS)


def _elements(column: Column) -> _Elements:
    values = [value for cell in column.values for value in cell]
    rows = tuple(row for row, cell in enumerate(column.values) for _ in cell)
    empty = next((row for row, value in zip(rows, values, strict=True) if value is None), None)
    if empty is not None:
        raise DataError(f"{column.where(empty)}: an element of its list is empty; fill it, or leave it out")
    lengths = list(accumulate(map(len, column.values), initial=0))
    ends = tuple(lengths[end] for end in column.ends)
    types = tuple(_element_type(kind) for kind in column.types)
    return _Elements(column.name, values, column.files, types, ends, column, rows)


def _element_type(kind: pa.DataType) -> pa.DataType:
    element = kind.value_type
    return element.value_type if pa.types.is_dictionary(element) else element
