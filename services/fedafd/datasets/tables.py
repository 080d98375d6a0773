"""`table`: pictures or texts with a class or several labels each, as CSV files with column names say."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from fedafd.datasets.classes import settled_classes
from fedafd.datasets.files import need_folder, need_plain_path
from fedafd.datasets.intensity import IntensityRange
from fedafd.datasets.labels import Labels
from fedafd.datasets.listing import Listing, folder_listing
from fedafd.datasets.pair_sets import pictures_listing
from fedafd.datasets.partition import check_cuts, stratified_cut
from fedafd.datasets.picture_store import find_pictures, open_store
from fedafd.datasets.samples import ClientData, ImageSplit, LazyImages, TextSplit
from fedafd.datasets.table_files import Table, chosen_files, divided, read_table
from fedafd.datasets.table_labels import table_labels
from fedafd.datasets.texts import is_visible
from fedafd.domain.errors import ConfigurationError, DataError
from fedafd.domain.kinds import ClientKind

__all__ = ["TableOptions", "table_client"]

S = TypeVar("S", ImageSplit, TextSplit)
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """Which file and columns, and how splits that it lacks are cut."""

    file: str | None = None
    """The table of all splits; None: train.csv with val.csv and test.csv, or the only table of the folder."""
    delimiter: Literal[",", ";", "\t", "|"] | None = None
    """Between fields; None: a comma, or a tab in a .tsv."""
    image_column: str = "image"
    """A picture's path below `images`."""
    images: str = "."
    """The folder, or uncompressed tar, of the pictures."""
    text_column: str = "text"
    label_column: str = "label"
    label_separator: str | None = None
    """What parts several labels in one cell, such as `|`; an empty cell has none. None: a cell is one class."""
    no_label: str | None = None
    """A cell that stands for no label, such as `No Finding`."""
    label_columns: tuple[str, ...] | None = None
    """Columns of 0 and 1, one for each label, in place of `label_column`."""
    split_column: str | None = "split"
    """Says train, val or test in a table of all splits; need not be there. None: read none."""
    val_fraction: float = 0.1
    """Cut from the training rows, of each class, where no file and no row is of the split."""
    test_fraction: float = 0.2
    split_seed: int = 0
    intensity_range: IntensityRange | None = None
    """The values that become black and white in pictures of more than 8 bits."""

    def __post_init__(self) -> None:
        check_cuts(self.val_fraction, self.test_fraction, self.split_seed)
        if self.label_separator is not None and not self.label_separator:
            raise ConfigurationError("data.options.label_separator is empty; must be what parts labels, such as '|'")
        if self.label_columns is not None:
            _check_columns(self.label_columns)
        if self.label_columns is not None and self.label_separator is not None:
            raise ConfigurationError("data.options: label_columns and label_separator are two ways; set one of them")
        if self.no_label is not None and self.label_separator is None:
            raise ConfigurationError("data.options.no_label: needs label_separator, as else a cell is one class")


def _check_columns(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if len(names) < 2 or twice:
        fault = f"names {', '.join(twice)} twice" if twice else f"names {len(names)}"
        raise ConfigurationError(f"data.options.label_columns {fault}; must name two or more columns, each once")


def table_client(path: Path | None, kind: ClientKind, options: TableOptions) -> ClientData:
    """Pictures or texts by rows of a table. Raises DataError naming file and line of what does not fit."""
    if kind is ClientKind.PAIR:
        raise ConfigurationError("data adapter table: serves clients of kind image and text, not pair")
    folder = need_folder(path, "table")
    files = chosen_files(folder, options.file)
    tables = _by_split({split: read_table(file, options.delimiter) for split, file in files.items()}, options)
    names, labels, notes = table_labels(
        tables,
        column=options.label_column,
        separator=options.label_separator,
        columns=options.label_columns,
        no_label=options.no_label,
    )
    read = {file.relative_to(folder).as_posix() for file in files.values()}
    if kind is ClientKind.TEXT:
        texts = {split: _texts(table, options.text_column) for split, table in tables.items()}
        of_texts, cut = _cut({s: TextSplit(texts[s], labels[s]) for s in tables}, texts["train"], options, folder)
        kept, of_split, class_notes = settled_classes(names, of_texts, folder)
        listing = folder_listing(folder, read, {".csv", ".tsv"}, notes=(*notes, *cut, *class_notes))
        return ClientData(kind, of_split["train"], of_split["val"], of_split["test"], kept, listing)
    pictures = _Pictures(folder, tables, options)
    of_images, cut = _cut({s: pictures.split(s, labels[s]) for s in tables}, pictures.paths["train"], options, folder)
    kept, shown, class_notes = settled_classes(names, of_images, folder)
    return ClientData(
        kind, shown["train"], shown["val"], shown["test"], kept, pictures.listing(read, (*notes, *cut, *class_notes))
    )


def _by_split(tables: dict[str, Table], options: TableOptions) -> dict[str, Table]:
    column = options.split_column
    if len(tables) == 1 and column is not None and column in tables["train"].header:
        return divided(tables["train"], column)
    return tables


def _texts(table: Table, column: str) -> list[str]:
    texts = []
    for where, cell in zip(table.origins, table.cells(column, "text_column"), strict=True):
        text = " ".join(cell.split())
        if not is_visible(text):
            raise DataError(f"{where}: column {column!r} holds no text")
        texts.append(text)
    return texts


class _Pictures:
    """The pictures that rows name; all are found at load."""

    def __init__(self, folder: Path, tables: Mapping[str, Table], options: TableOptions) -> None:
        column = options.image_column
        self._folder, self._window = folder, options.intensity_range
        self.paths: dict[str, list[str]] = {}
        wanted: dict[str, str] = {}
        for split, table in tables.items():
            cells = zip(table.origins, table.cells(column, "image_column"), strict=True)
            named = [(where, need_plain_path(cell.strip(), f"{where}: column {column!r}")) for where, cell in cells]
            for where, path in named:
                first = wanted.setdefault(path, where)
                if first != where:
                    raise DataError(
                        f"{where}: {path} is there already, at {first}; write a picture once, with all of its labels"
                    )
            self.paths[split] = [path for _, path in named]
        self._store = open_store(folder, need_plain_path(options.images, "data.options.images"))
        self._pictures = find_pictures(self._store, wanted)

    def split(self, split: str, labels: Labels) -> ImageSplit:
        """The pictures of a split, with their labels."""
        files, store = [self._pictures[path] for path in self.paths[split]], self._store
        images = LazyImages(
            len(files), lambda i: store.read(files[i]), lambda i: store.name(files[i]), intensity_range=self._window
        )
        return ImageSplit(images, labels)

    def listing(self, tables: Collection[str], notes: tuple[str, ...]) -> Listing:
        """What was read and left out; the tables, which may lie elsewhere than the pictures, are read too."""
        listed = pictures_listing(self._folder, self._store, self._pictures, tables, notes)
        seen = listed.files_seen + len(set(tables) - set(self._store.files))
        return replace(listed, files_seen=seen, files_read=listed.files_read + len(tables))


def _cut(
    splits: dict[str, S], names: Sequence[str], options: TableOptions, folder: Path
) -> tuple[dict[str, S], tuple[str, ...]]:
    """`splits`, with those that are missing cut from train, and a note that says so. Raises DataError.

    A sample's part is drawn by its own name, its path or text: it keeps it while others come and go.
    """
    missing: list[str] = [split for split in _SPLITS if split not in splits]
    if not missing:
        return splits, ()
    whole, fractions = splits["train"], [getattr(options, f"{split}_fraction") for split in missing]
    drawn = stratified_cut(whole.labels, fractions, options.split_seed, names)
    cut_splits = splits | {
        split: whole.take(rows.tolist()) for split, rows in zip(("train", *missing), drawn, strict=True)
    }
    if not all(map(len, cut_splits.values())):
        raise DataError(f"{folder}: {len(whole)} rows are too few to cut {' and '.join(missing)} from; add rows")
    shares = " and ".join(f"{split} ({share:g})" for split, share in zip(missing, fractions, strict=True))
    return cut_splits, (
        f"{shares}: cut from the rows of train, of each class alike, by split_seed {options.split_seed}",
    )
