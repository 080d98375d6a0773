"""Labelled texts: `ag-news`, and any other CSV of the same form."""

from __future__ import annotations

import csv
import html
import io
import re
from pathlib import Path

import numpy as np

from fedafd.datasets.files import need_folder, need_unique, read_text
from fedafd.datasets.samples import ClientData, TextSplit
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import ClientKind

__all__ = ["ag_news"]

_NUMBER = re.compile(r"[0-9]{1,6}")
_BARE_ENTITY = re.compile(r"(?<![&\w])(#\d+|quot|amp|lt|gt|nbsp);")


def ag_news(path: Path | None) -> ClientData:
    """AG_NEWS: `train.csv`, `test.csv` and perhaps `val.csv` of rows (class from 1, title, description), `classes.txt`.

    Without `val.csv` every tenth training row is for validation. Raises DataError naming file and line.
    """
    folder = need_folder(path, "ag-news")
    names = _class_names(folder / "classes.txt")
    train, test = (_rows(folder / f"{split}.csv", len(names)) for split in ("train", "test"))
    if (folder / "val.csv").is_file():
        val = _rows(folder / "val.csv", len(names))
    else:
        val, train = train.take(range(0, len(train), 10)), train.take([i for i in range(len(train)) if i % 10])
    return ClientData(ClientKind.TEXT, train, val, test, names)


def _class_names(path: Path) -> tuple[str, ...]:
    names = tuple(line.strip() for line in read_text(path, "ag-news").splitlines() if line.strip())
    if len(names) < 2:
        raise DataError(f"{path}: needs two or more class names, one a line")
    need_unique(names, str(path))
    return names


def _rows(path: Path, classes: int) -> TextSplit:
    texts, labels = [], []
    reader = csv.reader(io.StringIO(read_text(path, "ag-news"), newline=""), strict=True)
    try:
        for row in reader:
            label, text = _parsed(row, classes, f"{path}:{reader.line_num}")
            texts.append(text)
            labels.append(label)
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not readable as CSV: {error}") from None
    if not texts:
        raise DataError(f"{path}: is empty; it must hold rows of class number, title, description")
    return TextSplit(texts, np.array(labels, dtype=np.int64))


def _parsed(row: list[str], classes: int, place: str) -> tuple[int, str]:
    if len(row) < 2:
        raise DataError(f"{place}: {len(row)} fields; needs class number, title, description")
    label = row[0].strip()
    if not _NUMBER.fullmatch(label) or not 1 <= int(label) <= classes:
        raise DataError(f"{place}: class is {row[0][:40]!r}; must be 1 to {classes}, as in classes.txt")
    text = " ".join(row[1:]).replace("\\", " ")
    text = " ".join(html.unescape(_BARE_ENTITY.sub(r"&\1;", text)).split())
    if not text:
        raise DataError(f"{place}: has no text")
    return int(label) - 1, text
