"""Parquet files of a data set: which belong to a split, and the cells of a column with the place of each.

A split is `train.parquet`, or shards `train-00000-of-00002.parquet` or `train-0.parquet`, in the folder or in its
`data/`; what only looks alike, such as a backup copy, is refused, and the option of the split's name decides.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fedafd.datasets.files import need_file_of_its_kind, need_plain_path
from fedafd.domain.errors import DataError

__all__ = [
    "SPLITS",
    "Column",
    "bounded_batches",
    "descended",
    "need_filled",
    "open_parquet",
    "read_column",
    "split_files",
]

SPLITS = ("train", "val", "test")
_NAMES = {"train": "train", "val": "val|valid|validation|dev", "test": "test"}
_SHARD = r"(?:-(\d+)(?:-of-(\d+)(?:-[0-9a-f]{16})?)?)?"
_FOLDERS = ("", "data")
_ROWS_AT_ONCE = 256
_SHOWN = 5
_SPARE_BYTES = 128 << 20
_TIMES = 100
_CELL_BYTES = 64
"""A decoded column may take 100 times its file's size, and 128 MiB; each cell counts 64 bytes more, as an object."""
_BATCH_BYTES = 64 << 20
"""The most that is decoded at once, even if each cell is the largest value of its column."""


def split_files(folder: Path, chosen: Mapping[str, str | None]) -> dict[str, list[Path]]:
    """Files of each split in order. `chosen` gives the pattern of a split's files where an option does.

    Raises DataError naming the candidates and the option where it is not clear which to read.
    """
    files = {}
    for split in SPLITS:
        pattern = chosen.get(split)
        files[split] = _usual(folder, split) if pattern is None else _matching(folder, split, pattern)
    return files


def _matching(folder: Path, split: str, pattern: str) -> list[Path]:
    option = f"data.options.{split}"
    try:
        files = sorted(path for path in folder.glob(need_plain_path(pattern, option)) if path.is_file())
    except (ValueError, NotImplementedError) as error:
        raise DataError(f"{option}: {pattern!r} is no pattern of files: {error}") from None
    if not files:
        raise DataError(f"{folder}: no file {pattern}, which {option} names")
    return files


def _usual(folder: Path, split: str) -> list[Path]:
    exact = re.compile(rf"({_NAMES[split]}){_SHARD}\.parquet")
    alike = re.compile(rf"({_NAMES[split]})([^a-z].*)?\.parquet", re.IGNORECASE)
    every = sorted(
        path for below in _FOLDERS for path in (folder / below).glob("*") if path.suffix.lower() == ".parquet"
    )
    matches = {path: match for path in every if (match := exact.fullmatch(path.name))}
    if not matches:
        names = ", ".join(str(path.relative_to(folder)) for path in every[:_SHOWN]) or "none"
        raise DataError(
            f"{folder}: no file {split}.parquet or {split}-00000-of-00001.parquet, nor in its folder data/; Parquet"
            f" files found: {names}; options.{split} names others"
        )
    others = [path for path in every if path not in matches and alike.fullmatch(path.name)]
    kinds = {(path.parent, match[1], match[2] is None, match[3]) for path, match in matches.items()}
    if others or len(kinds) > 1:
        raise _unclear(folder, split, sorted([*matches, *others]), "it is not clear which to read")
    numbers = sorted((int(match[2] or 0), path) for path, match in matches.items())
    total = next(iter(matches.values()))[3]
    wanted = range(int(total)) if total else range(numbers[0][0], numbers[0][0] + len(numbers))
    if [number for number, _ in numbers] != list(wanted) or numbers[0][0] > 1:
        raise _unclear(folder, split, list(matches), "the numbers of the shards are not complete")
    return [path for _, path in numbers]


def _unclear(folder: Path, split: str, files: Sequence[Path], why: str) -> DataError:
    names = [str(path.relative_to(folder)) for path in files]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return DataError(
        f"{folder}: split {split}: {why}: {', '.join(names[:_SHOWN])}{more}; set options.{split} to the name or"
        " pattern of the files to read"
    )


@dataclass(frozen=True)
class Column:
    """The cells of one column of a split, over all of its files."""

    name: str
    values: list[Any]
    files: tuple[Path, ...]
    types: tuple[pa.DataType, ...]
    """Of the column in each file."""
    ends: tuple[int, ...]
    """Rows up to the end of each file."""

    def where(self, row: int) -> str:
        """File, row in it from 0, and column, for messages."""
        number = bisect_right(self.ends, row)
        first = self.ends[number - 1] if number else 0
        return f"{self.files[number]}, row {row - first}: column {self.name!r}"


@contextmanager
def open_parquet(file: Path) -> Iterator[pq.ParquetFile]:
    """An open file. Raises DataError in one line for what cannot be read, while it is open, too."""
    if file.is_dir():
        raise DataError(
            f"{file}: is a folder; to read the files in it set options.train, val or test to {file.name}/*.parquet"
        )
    need_file_of_its_kind(file, "parquet", b"PAR1")
    try:
        with pq.ParquetFile(file) as opened:
            yield opened
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise DataError(f"{file}: not readable as Parquet: {' '.join(str(error).split())}") from None


def read_column(files: Sequence[Path], name: str, option: str) -> Column:
    """Column `name`; with dots, a field of a struct, or of each struct of a list. No cell is empty.

    Raises DataError naming the file, and the `option` that names the column where there is none of that name.
    """
    values: list[Any] = []
    types, counts = [], []
    for file in files:
        with open_parquet(file) as opened:
            top, fields = _split_path(opened.schema_arrow, name, file, option)
            types.append(_type_at(opened.schema_arrow.field(top).type, fields, f"{file}: column {name!r}"))
            cells = _cells(opened, top, file)
        counts.append(len(cells))
        values += [descended(cell, fields) for cell in cells]
    return need_filled(Column(name, values, tuple(files), tuple(types), tuple(accumulate(counts))))


def need_filled(column: Column) -> Column:
    """`column`, if it has a row and no cell is empty. Raises DataError."""
    if not column.values:
        raise DataError(f"{', '.join(map(str, column.files[:_SHOWN]))}: no rows")
    empty = next((row for row, value in enumerate(column.values) if value is None), None)
    if empty is not None:
        raise DataError(f"{column.where(empty)} has an empty cell; fill it, or remove the row")
    return column


def bounded_batches(opened: pq.ParquetFile, columns: Sequence[str], file: Path) -> Iterator[pa.RecordBatch]:
    """A file's rows in small batches. Raises DataError where a small file holds far too much, before it is decoded.

    One value may stand in it once and be named by millions of rows, or be packed a thousandfold.
    """
    budget = _TIMES * file.stat().st_size + _SPARE_BYTES
    metadata = opened.metadata
    chunks = [
        metadata.row_group(group).column(index)
        for group in range(metadata.num_row_groups)
        for index in range(metadata.num_columns)
        if metadata.row_group(group).column(index).path_in_schema.split(".")[0]
        in {column.split(".")[0] for column in columns}
    ]
    packed = sum(chunk.total_uncompressed_size for chunk in chunks)
    if packed > budget or metadata.num_rows * _CELL_BYTES > budget:
        raise _bomb(file, max(packed, metadata.num_rows * _CELL_BYTES))
    largest = max((chunk.total_uncompressed_size for chunk in chunks), default=0)
    rows = max(1, min(_ROWS_AT_ONCE, _BATCH_BYTES // max(largest, 1)))
    # In small batches also because Arrow cannot hold more than 2 GiB of a struct's bytes in one piece.
    for batch in opened.iter_batches(batch_size=rows, columns=list(columns)):
        budget -= sum(map(_whole_bytes, batch.columns)) + _CELL_BYTES * batch.num_rows
        if budget < 0:
            raise _bomb(file, _TIMES * file.stat().st_size + _SPARE_BYTES - budget)
        yield batch


def _whole_bytes(array: pa.Array) -> int:
    """Bytes of an array with each value of a dictionary as often as rows name it, as Python will hold it."""
    if pa.types.is_dictionary(array.type):
        return int(array.dictionary_decode().nbytes)
    if pa.types.is_struct(array.type):
        return sum(map(_whole_bytes, array.flatten()))
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        return int(8 * len(array)) + _whole_bytes(array.flatten())
    return int(array.nbytes)


def _bomb(file: Path, num_bytes: int) -> DataError:
    return DataError(
        f"{file}: not read, because its {file.stat().st_size} bytes unpack to {num_bytes} or more (a decompression"
        " bomb?); write it anew, or in several files"
    )


def _split_path(schema: pa.Schema, name: str, file: Path, option: str) -> tuple[str, list[str]]:
    """The column of the table, whose own name may have dots, and the fields below it."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        top = ".".join(parts[:count])
        if schema.names.count(top) == 1:
            return top, parts[count:]
        if top in schema.names:
            raise DataError(f"{file}: column {top!r} is there {schema.names.count(top)} times; rename one")
    raise DataError(f"{file}: no column {name!r}; found {', '.join(schema.names)}; options.{option} names another")


def _type_at(kind: pa.DataType, fields: Sequence[str], where: str) -> pa.DataType:
    if not fields:
        return kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _type_at(kind.value_type, fields, where)
    names = [field.name for field in kind] if pa.types.is_struct(kind) else []
    if fields[0] not in names:
        raise DataError(f"{where}: no field {fields[0]!r} there; found {', '.join(names) or str(kind)}")
    return _type_at(kind.field(fields[0]).type, fields[1:], where)


def _cells(opened: pq.ParquetFile, top: str, file: Path) -> list[Any]:
    cells: list[Any] = []
    for batch in bounded_batches(opened, [top], file):
        array = batch.column(batch.schema.names.index(top))
        try:
            cells += array.to_pylist()
        except UnicodeDecodeError as error:
            row = len(cells) + _first_undecodable(array)
            raise DataError(
                f"{file}, row {row}: column {top!r} is not UTF-8: {error.reason}; write it as UTF-8"
            ) from None
    return cells


def _first_undecodable(array: pa.Array) -> int:
    for row, cell in enumerate(array):
        try:
            cell.as_py()
        except UnicodeDecodeError:
            return row
    return 0


def descended(cell: Any, fields: Sequence[str]) -> Any:
    """The field of a struct, or of each struct of a list, to which `fields` lead."""
    if isinstance(cell, list) and fields:
        return [descended(item, fields) for item in cell]
    for number, field in enumerate(fields):
        if cell is None:
            return None
        if isinstance(cell, list):
            return descended(cell, fields[number:])
        cell = cell[field]
    return cell
