"""Labels of Parquet files as class names: numbers, text or booleans, or Hugging Face's ClassLabel."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa

from fedafd.datasets.files import need_unique
from fedafd.datasets.parquet_files import Column, open_parquet
from fedafd.datasets.texts import normal_name
from fedafd.domain.errors import DataError

__all__ = ["named_labels"]

_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
_KINDS: Mapping[str, tuple[Callable[[pa.DataType], bool], ...]] = {
    "whole numbers": (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal),
    "text": (*_TEXT, *_BYTES),
    "booleans": (pa.types.is_boolean,),
}
_LONGEST_NUMBER = 18


ClassNames = tuple[tuple[str, ...] | None, tuple[str, ...]]
"""The names of ClassLabel, if there is one, and notes."""


def named_labels(
    columns: Mapping[str, Column], class_label: ClassNames | None = None
) -> tuple[tuple[str, ...], dict[str, list[int]], tuple[str, ...]]:
    """Class names, each split's labels as their numbers, and notes. ClassLabel keeps its order; names are in NFC.

    `class_label`: what is known of it; None reads the columns' files.

    Raises DataError naming file and row of a label that is no name of a class, or the files whose labels differ in
    kind.
    """
    kind = _kind(columns)
    given, notes = (class_label or _class_label(columns)) if kind == "whole numbers" else (None, ())
    if given is not None:
        return given, {split: _numbered(column, given) for split, column in columns.items()}, notes
    values = {
        split: [_name(v, column.where(row)) for row, v in enumerate(column.values)] for split, column in columns.items()
    }
    names = tuple(sorted({name for split_names in values.values() for name in split_names}, key=_order))
    number = {name: index for index, name in enumerate(names)}
    return names, {split: [number[name] for name in split_names] for split, split_names in values.items()}, ()


def _kind(columns: Mapping[str, Column]) -> str:
    first: tuple[str, Path] | None = None
    for column in columns.values():
        for file, column_type in zip(column.files, column.types, strict=True):
            kind = next((name for name, tests in _KINDS.items() if any(test(column_type) for test in tests)), None)
            if kind is None:
                raise DataError(
                    f"{file}: column {column.name!r} is of type {column_type}; labels must be whole numbers, text or"
                    " booleans"
                )
            first = first or (kind, file)
            if kind != first[0]:
                raise DataError(
                    f"{file}: column {column.name!r} holds {kind}, but {first[0]} in {first[1]}; write both alike"
                )
    assert first is not None
    return first[0]


def _name(value: Any, where: str) -> str:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{where} is no UTF-8: {error.reason}; write labels as text") from None
    return normal_name(value, where) if isinstance(value, str) else str(_whole(value, where))


def _whole(value: int | float | Decimal, where: str) -> int:
    # int() of what is not finite raises.
    if value != value or value in (float("inf"), float("-inf")) or value != int(value):
        raise DataError(f"{where} is {value}; a label must be a whole number")
    if value < 0:
        raise DataError(
            f"{where} is {int(value)}, which stands for unlabelled; remove such rows, or write labels as names"
        )
    return int(value)


def _numbered(column: Column, names: Sequence[str]) -> list[int]:
    numbers = []
    for row, value in enumerate(column.values):
        number = _whole(value, column.where(row))
        if number >= len(names):
            raise DataError(f"{column.where(row)} is {number}, but ClassLabel has {len(names)} names, from 0")
        numbers.append(number)
    return numbers


def _order(name: str) -> tuple[bool, int, str]:
    """Numbers by value, then names by alphabet."""
    number = name.isascii() and name.isdecimal() and len(name) <= _LONGEST_NUMBER
    return not number, int(name) if number else 0, name


def _class_label(columns: Mapping[str, Column]) -> ClassNames:
    """ClassLabel's names, the same in all files that have some, and a note on files that have none."""
    by_file = {file: _names_in(file, column.name) for column in columns.values() for file in column.files}
    named = {file: names for file, names in by_file.items() if names is not None}
    if not named:
        return None, ()
    first, names = next(iter(named.items()))
    for file, others in named.items():
        if others != names:
            raise DataError(f"{file}: its ClassLabel names other classes than that of {first}; write both alike")
    without = [file.name for file in by_file if file not in named]
    if not without:
        return names, ()
    return names, (
        f"labels of {', '.join(without)}, which has no ClassLabel, are read as the numbers of {first.name}'s",
    )


def _of_elements(feature: Any) -> Any:
    """What the elements of a list are, in the ways in which versions of the library write it; else the feature."""
    if isinstance(feature, list) and len(feature) == 1:
        return feature[0]
    return feature["feature"] if isinstance(feature, dict) and isinstance(feature.get("feature"), dict) else feature


def _names_in(file: Path, column: str) -> tuple[str, ...] | None:
    with open_parquet(file) as opened:
        content = (opened.schema_arrow.metadata or {}).get(b"huggingface")
    if content is None:
        return None
    try:
        feature = json.loads(content)["info"]["features"]
        for part in [column] if column in feature else column.split("."):
            feature = feature[part]
        feature = _of_elements(feature)
        names = feature.get("names") if isinstance(feature, dict) else None
    except (ValueError, KeyError, TypeError):
        return None
    if isinstance(names, dict):
        names = [names[key] for key in sorted(names, key=lambda key: _order(str(key)))]
    if not isinstance(names, list):
        return None
    where = f"{file}: ClassLabel of column {column!r}"
    class_names = tuple(normal_name(str(name), where) for name in names)
    need_unique(class_names, where, "class")
    return class_names
