"""Labelled texts: `ag-news`, and any other CSV of the same form."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from fedafd.datasets.classes import settled_classes
from fedafd.datasets.csv_files import SEPARATORS, csv_rows
from fedafd.datasets.files import need_folder, need_unique, read_text
from fedafd.datasets.listing import folder_listing
from fedafd.datasets.partition import check_cut, stratified_cut
from fedafd.datasets.samples import ClientData, TextSplit
from fedafd.datasets.texts import is_visible, lines_of, normal_name
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import ClientKind

__all__ = ["TextOptions", "ag_news"]

_AG_NEWS = frozenset({"World", "Sports", "Business", "Sci/Tech"})
_VAL_FILES = frozenset({"val.csv", "valid.csv", "validation.csv", "dev.csv"})
_NUMBER = re.compile(r"[0-9]{1,6}")
_BARE_ENTITY = re.compile(r"(?<![&\w])(#\d+|quot|amp|lt|gt|nbsp);")


@dataclass(frozen=True)
class TextOptions:
    """How the texts are written."""

    unescape: bool | Literal["auto"] = "auto"
    """Read AG_NEWS's own escapes: a backslash is a line break, `#39;` and `&amp;` are characters. auto: where all
    classes are AG_NEWS's, as in cuts of it; any other text is taken as it is."""
    val_fraction: float = 0.1
    """Share of each class's training rows that is for validation, where there is no val.csv."""
    split_seed: int = 0
    """Draws these rows."""

    def __post_init__(self) -> None:
        check_cut(self.val_fraction, self.split_seed)


@dataclass(frozen=True)
class _Table:
    rows: TextSplit
    blank: int
    unescaped: int


def ag_news(path: Path | None, options: TextOptions | None = None) -> ClientData:
    """AG_NEWS: `train.csv`, `test.csv` and perhaps `val.csv` of rows (class from 1, title, description), `classes.txt`.

    Instead of `val.csv` it may be `valid.csv`, `validation.csv` or `dev.csv`; without it a share of each class's
    training rows is for validation. Raises DataError naming file and line.
    """
    folder = need_folder(path, "ag-news")
    names = _class_names(folder / "classes.txt")
    chosen = options or TextOptions()
    unescape = _AG_NEWS.issuperset(names) if chosen.unescape == "auto" else chosen.unescape
    files = _files(folder)
    tables = {split: _table(folder / name, len(names), unescape) for split, name in files.items()}
    splits = {split: table.rows for split, table in tables.items()}
    notes = _notes({files[split]: table for split, table in tables.items()})
    if "val" not in splits:
        splits, note = _with_val(splits, folder, chosen)
        notes.append(note)
    labels, splits, class_notes = settled_classes(names, splits, folder)
    if class_notes:
        _need_no_comment(names, folder / "classes.txt")
    listing = folder_listing(folder, {"classes.txt", *files.values()}, {".csv"}, notes=(*notes, *class_notes))
    return ClientData(ClientKind.TEXT, splits["train"], splits["val"], splits["test"], labels, listing)


def _files(folder: Path) -> dict[str, str]:
    """The file of each split; that for validation has one of several names, or is not there."""
    candidates = sorted(file.name for file in folder.iterdir() if file.name.lower() in _VAL_FILES)
    if len(candidates) > 1:
        raise DataError(f"{folder}: {', '.join(candidates)} are all files for validation; keep the one to read")
    return {"train": "train.csv", **({"val": candidates[0]} if candidates else {}), "test": "test.csv"}


def _class_names(path: Path) -> tuple[str, ...]:
    if not path.exists():
        raise DataError(f"{path}: no such file; write it: the names of classes 1, 2 and so on, one a line")
    lines = enumerate(lines_of(read_text(path, "ag-news"), path), 1)
    names = tuple(normal_name(line, f"{path}:{number}") for number, line in lines if line.strip())
    if len(names) < 2:
        raise DataError(f"{path}: needs two or more class names, one a line")
    need_unique(names, str(path), "class")
    return names


def _need_no_comment(names: tuple[str, ...], path: Path) -> None:
    """Where there are more names than classes, a comment would give each class the name of the one before."""
    comment = next((name for name in names if name.startswith("#")), None)
    if comment is not None:
        raise DataError(
            f"{path}: {comment!r} is read as the name of a class, and some class has no sample;"
            " remove the line if it is a comment"
        )


def _with_val(splits: dict[str, TextSplit], folder: Path, options: TextOptions) -> tuple[dict[str, TextSplit], str]:
    whole = splits["train"]
    train, val = stratified_cut(whole.labels, (options.val_fraction,), options.split_seed)
    if not len(val):
        raise DataError(
            f"{folder / 'train.csv'}: has {len(whole)} rows, too few to train on some and validate on others, as no"
            " class has two; add rows, or val.csv"
        )
    cut_splits = splits | {"train": whole.take(train.tolist()), "val": whole.take(val.tolist())}
    share = f"{options.val_fraction:g} of each class, drawn by split_seed {options.split_seed}"
    return cut_splits, f"no val.csv: {len(val)} of {len(whole)} rows of train.csv ({share}) are for validation"


def _table(path: Path, classes: int, unescape: bool) -> _Table:
    texts, labels, blank, unescaped = [], [], 0, 0
    for where, row in csv_rows(path, "ag-news"):
        if not any(field.strip() for field in row) and len(row) < 2:
            blank += 1
            continue
        label, plain = _parsed(row, classes, where)
        text = " ".join(_unescaped(plain).split()) if unescape else plain
        if not is_visible(text):
            raise DataError(f"{where}: has no text")
        unescaped += text != plain
        texts.append(text)
        labels.append(label)
    if not texts:
        raise DataError(f"{path}: is empty; it must hold rows of class number, title, description")
    return _Table(TextSplit(texts, np.array(labels, dtype=np.int64)), blank, unescaped)


def _parsed(row: list[str], classes: int, where: str) -> tuple[int, str]:
    label = row[0].strip()
    other = next((name for mark, name in SEPARATORS.items() if re.match(rf"\"?\w+\"?{re.escape(mark)}", label)), None)
    if other is not None:
        raise DataError(f"{where}: its fields are parted by {other}; save the file with commas between them")
    if len(row) < 2:
        raise DataError(f"{where}: {len(row)} fields; needs class number, title, description, with commas between")
    if not _NUMBER.fullmatch(label) or not 1 <= int(label) <= classes:
        hint = "; remove the row if it is a header" if where.endswith(":1") and re.match(r"[^\W\d]", label) else ""
        raise DataError(f"{where}: class is {row[0][:40]!r}; must be 1 to {classes}, as in classes.txt{hint}")
    return int(label) - 1, " ".join(" ".join(row[1:]).split())


def _unescaped(text: str) -> str:
    return html.unescape(_BARE_ENTITY.sub(r"&\1;", text.replace("\\", " ")))


def _notes(tables: dict[str, _Table]) -> list[str]:
    sentences = [f"{name}: {table.blank} blank lines skipped" for name, table in tables.items() if table.blank]
    unescaped = sum(table.unescaped for table in tables.values())
    if unescaped:
        sentences.append(
            f"AG_NEWS's escapes were read in {unescaped} texts, where a backslash is a line break;"
            " options.unescape: false takes texts as they are"
        )
    return sentences
