"""`parquet`: files in the Hugging Face image layout, `<split>*.parquet`, with labels, texts or captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fedafd.datasets.files import need_folder, need_unique
from fedafd.datasets.samples import ClientData, ImageSplit, LazyImages, PairSplit, Split, TextSplit
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import ClientKind

__all__ = ["parquet_client", "parquet_pairs"]

_SPLITS = ("train", "val", "test")


def parquet_pairs(path: Path | None) -> dict[str, PairSplit]:
    """Columns `image` (struct with bytes) and `captions` (list of strings). Raises DataError naming what is missing."""
    folder = need_folder(path, "parquet")
    return {split: _pairs(_table(folder, split), folder, split) for split in _SPLITS}


def parquet_client(path: Path | None, kind: ClientKind) -> ClientData:
    """Pairs as above; or `image` and `label`; or `text` and `label`. Labels are names or numbers."""
    if kind is ClientKind.PAIR:
        pairs = parquet_pairs(path)
        return ClientData(kind, pairs["train"], pairs["val"], pairs["test"])
    folder = need_folder(path, "parquet")
    tables = {split: _table(folder, split) for split in _SPLITS}
    values = {split: [str(v) for v in _column(table, "label", folder, split)] for split, table in tables.items()}
    names = tuple(
        sorted(set(values["train"]), key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))
    )
    made = {split: _labelled(kind, tables[split], values[split], names, folder, split) for split in _SPLITS}
    return ClientData(kind, made["train"], made["val"], made["test"], names)


def _labelled(
    kind: ClientKind, table: pa.Table, values: list[str], names: tuple[str, ...], folder: Path, split: str
) -> Split:
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise DataError(f"{folder}, split {split}: labels {', '.join(unknown[:5])} do not occur in train")
    labels = np.array([names.index(value) for value in values], dtype=np.int64)
    if kind is ClientKind.TEXT:
        texts = _column(table, "text", folder, split)
        wrong = next((row for row, text in enumerate(texts) if not isinstance(text, str) or not text.strip()), None)
        if wrong is not None:
            raise DataError(f"{folder}, split {split}, row {wrong}: column 'text' holds no text")
        return TextSplit(texts, labels)
    return ImageSplit(_images(table, folder, split), labels)


def _pairs(table: pa.Table, folder: Path, split: str) -> PairSplit:
    captions = [
        _captions(texts, f"{folder}, split {split}, row {row}")
        for row, texts in enumerate(_column(table, "captions", folder, split))
    ]
    ids = tuple(str(v) for v in _column(table, "id", folder, split)) if "id" in table.column_names else ()
    need_unique(ids, f"{folder}, split {split}, column 'id'")
    return PairSplit(_images(table, folder, split), captions, ids)


def _captions(texts: Any, place: str) -> tuple[str, ...]:
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{place}: captions must be a list of texts, found {type(texts).__name__}")
    if not any(text.strip() for text in texts):
        raise DataError(f"{place}: has no caption")
    return tuple(text.strip() for text in texts if text.strip())


def _images(table: pa.Table, folder: Path, split: str) -> LazyImages:
    images = _column(table, "image", folder, split)
    content: list[Any] = [image.get("bytes") if isinstance(image, dict) else None for image in images]
    if None in content:
        row = content.index(None)
        raise DataError(
            f"{folder}, split {split}, row {row}: column 'image' must hold the file's bytes, as in"
            " Hugging Face's layout: a struct with `bytes`"
        )
    return LazyImages(len(content), content.__getitem__, lambda i: f"{folder}, split {split}, row {i}")


def _column(table: pa.Table, name: str, folder: Path, split: str) -> list[Any]:
    if name not in table.column_names:
        raise DataError(f"{folder}, split {split}: no column {name!r}; found {', '.join(table.column_names)}")
    try:
        values: list[Any] = table[name].to_pylist()
    except ValueError as error:
        raise DataError(f"{folder}, split {split}: column {name!r} is not UTF-8: {error}") from None
    if any(value is None for value in values):
        raise DataError(
            f"{folder}, split {split}: column {name!r} has an empty cell, first in row {values.index(None)}"
        )
    return values


def _table(folder: Path, split: str) -> pa.Table:
    files = sorted(folder.glob(f"{split}*.parquet")) or sorted(folder.glob(f"data/{split}*.parquet"))
    if not files:
        raise DataError(f"{folder}: no file {split}*.parquet, nor in its folder data/")
    try:
        table = pa.concat_tables([pq.read_table(file) for file in files])
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{folder}, split {split}: not readable as Parquet: {error}") from None
    if not table.num_rows:
        raise DataError(f"{folder}, split {split}: no rows")
    return table
