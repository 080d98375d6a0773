"""`huggingface`: folders that Hugging Face's `datasets` saved, ids of its hub, and folders of Parquet files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from fedafd.datasets.classes import settled_classes
from fedafd.datasets.column_options import ColumnOptions
from fedafd.datasets.column_values import caption_lists, need_apart, sample_ids, sound_texts
from fedafd.datasets.files import need_folder, need_unique
from fedafd.datasets.hub_sets import Pictures, chosen_splits, hub_set, is_saved_set, saved_set, type_in_words
from fedafd.datasets.label_lists import column_labels
from fedafd.datasets.labels import Labels
from fedafd.datasets.listing import Listing
from fedafd.datasets.parquet_files import SPLITS, Column, descended, need_filled
from fedafd.datasets.parquet_labels import ClassNames
from fedafd.datasets.parquet_sets import parquet_client, parquet_pairs
from fedafd.datasets.partition import check_split_seed, stratified_cut
from fedafd.datasets.samples import ClientData, ImageSplit, LazyImages, PairSplit, Split, TextSplit
from fedafd.datasets.texts import normal_name
from fedafd.domain.errors import ConfigurationError, DataError
from fedafd.domain.kinds import ClientKind

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["HuggingFaceOptions", "hugging_face_client", "hugging_face_pairs"]

S = TypeVar("S", ImageSplit, TextSplit, PairSplit)


@dataclass(frozen=True)
class HuggingFaceOptions(ColumnOptions):
    """Which data set, and how splits that it lacks are cut from train."""

    id: str | None = None
    """Of the hub, such as `owner/name`, in place of data.path."""
    config: str | None = None
    """Of a data set of the hub that has several."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    val_fraction: float | None = None
    """Cut from train, of each class, where there is no such split; None: cut nothing. The same for test."""
    test_fraction: float | None = None
    split_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("val_fraction", "test_fraction"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ConfigurationError(f"data.options.{name} is {value:g}; must be above 0 and below 1")
        if (self.val_fraction or 0) + (self.test_fraction or 0) >= 1:
            raise ConfigurationError("data.options.val_fraction and test_fraction: leave nothing for train")
        check_split_seed(self.split_seed)


def hugging_face_pairs(path: Path | None, options: HuggingFaceOptions) -> tuple[dict[str, PairSplit], Listing]:
    """Columns of images and captions, and perhaps of ids. Raises DataError naming what is missing, and where."""
    if _is_of_parquet_files(path, options):
        return parquet_pairs(path, options)
    source = _Source(path, options)
    splits, notes = source.cut({split: source.pairs(split) for split in source.splits}, labels=None)
    return splits, source.listing((*notes, *need_apart(splits, source.where)))


def hugging_face_client(path: Path | None, kind: ClientKind, options: HuggingFaceOptions) -> ClientData:
    """Pairs as above; or images and labels; or texts and labels."""
    if _is_of_parquet_files(path, options):
        return parquet_client(path, kind, options)
    if kind is ClientKind.PAIR:
        pairs, listing = hugging_face_pairs(path, options)
        return ClientData(kind, pairs["train"], pairs["val"], pairs["test"], listing=listing)
    source = _Source(path, options)
    columns = {split: source.column(split, options.label_column, "label_column") for split in source.splits}
    names, labels, notes = column_labels(columns, source.class_label())
    kept_splits: Mapping[str, Split]
    if kind is ClientKind.TEXT:
        texts = {split: TextSplit(source.texts(split), labels[split]) for split in labels}
        whole_texts, cut = source.cut(texts, labels=labels["train"])
        kept, kept_splits, class_notes = settled_classes(names, whole_texts, source.where)
    else:
        images = {split: ImageSplit(source.images(split), labels[split]) for split in labels}
        whole_images, cut = source.cut(images, labels=labels["train"])
        kept, kept_splits, class_notes = settled_classes(names, whole_images, source.where)
    listing = source.listing((*notes, *cut, *class_notes))
    return ClientData(kind, kept_splits["train"], kept_splits["val"], kept_splits["test"], kept, listing)


def _is_of_parquet_files(path: Path | None, options: HuggingFaceOptions) -> bool:
    """Whether `parquet` reads it: a folder that nobody saved but that has files like the hub's."""
    if (path is None) == (options.id is None):
        raise ConfigurationError(
            "data adapter huggingface: set data.path to a folder, or data.options.id to the id of a data set on the hub"
        )
    if path is None or is_saved_set(need_folder(path, "huggingface")):
        return False
    if not any(path.glob("*.parquet")) and not any(path.glob("data/*.parquet")):
        raise DataError(
            f"{path}: no data set that save_to_disk left (no dataset_dict.json, no state.json with dataset_info.json),"
            " and no Parquet files"
        )
    if options.val_fraction is not None or options.test_fraction is not None:
        raise ConfigurationError(
            f"data.options.val_fraction, test_fraction: not for Parquet files, as in {path}; write one for each split"
        )
    return True


class _Source:
    """The sets of our splits, and their columns."""

    def __init__(self, path: Path | None, options: HuggingFaceOptions) -> None:
        self._options = options
        self.where = f"data set {options.id}" if path is None else str(path)
        if path is not None:
            available = saved_set(path)
        else:
            assert options.id is not None
            available = hub_set(options.id, options.config, options.revision)
        may_lack = frozenset(split for split in ("val", "test") if getattr(options, f"{split}_fraction") is not None)
        wanted = {split: getattr(options, split) for split in SPLITS}
        self.splits = chosen_splits(available, wanted, self.where, may_lack=may_lack)

    def column(self, split: str, name: str, option: str) -> Column:
        """Column `name`, with dots a field of one. Raises DataError for one that is not there or has an empty cell."""
        data = self.splits[split]
        top, fields = self._column_and_field(data, name, split, option)
        cells = data.select_columns([top]).with_format(None)[:][top]
        values = [descended(cell, fields) for cell in cells] if fields else list(cells)
        kind = data.features.arrow_schema.field(top).type
        return need_filled(Column(name, values, (Path(self.where) / split,), (kind,), (len(values),)))

    def texts(self, split: str) -> list[str]:
        """The texts. Raises DataError."""
        return sound_texts(self.column(split, self._options.text_column, "text_column"))

    def images(self, split: str) -> LazyImages:
        """The pictures, each read from its row when it is asked for. Raises DataError for a column of another kind."""
        data, name = self.splits[split], self._options.image_column
        top, fields = self._column_and_field(data, name, split, "image_column")
        where = f"{Path(self.where) / split}: column {name!r}"
        rows = Pictures(data, top, where, may_read_files=self._options.id is not None)
        if fields or not rows.is_of_pictures:
            raise DataError(
                f"{where} is of type {type_in_words(data.features[top])}; must be Image, or hold a file's bytes;"
                " options.image_column names another"
            )
        if not len(data):
            raise DataError(f"{Path(self.where) / split}: no rows")
        return LazyImages(len(data), rows.read, rows.name, intensity_range=self._options.intensity_range)

    def pairs(self, split: str) -> PairSplit:
        """Pictures with their captions, and ids where there are any. Raises DataError."""
        column = self.column(split, self._options.caption_column, "caption_column")
        values = [[cell] if isinstance(cell, str) else cell for cell in column.values]
        listed = Column(column.name, values, column.files, column.types, column.ends)
        return PairSplit(self.images(split), caption_lists(listed), self._ids(split))

    def class_label(self) -> ClassNames:
        """The names of ClassLabel, the same in all splits, if the column is one. Raises DataError."""
        name, labels = self._options.label_column, {}
        for split, data in self.splits.items():
            feature = data.features.get(name)
            feature = getattr(feature, "feature", feature)  # of a list, what its elements are
            names = getattr(feature, "names", None)
            if isinstance(names, list):
                where = f"{Path(self.where) / split}: ClassLabel of column {name!r}"
                labels[split] = tuple(normal_name(str(class_name), where) for class_name in names)
                need_unique(labels[split], where, "class")
        if labels and (len(set(labels.values())) > 1 or labels.keys() != self.splits.keys()):
            raise DataError(
                f"{self.where}: column {name!r} is not the same ClassLabel in {', '.join(self.splits)}; cast it alike"
            )
        return next(iter(labels.values()), None), ()

    def cut(self, splits: dict[str, S], *, labels: Labels | None) -> tuple[dict[str, S], tuple[str, ...]]:
        """`splits`, with those that lack cut from train, and a note on each. Raises DataError for too few samples."""
        lacking: list[str] = [split for split in SPLITS if split not in splits]
        if not lacking:
            return splits, ()
        whole, seed = splits["train"], self._options.split_seed
        fractions = [getattr(self._options, f"{split}_fraction") for split in lacking]
        drawn = stratified_cut(np.zeros(len(whole), np.int64) if labels is None else labels, fractions, seed)
        cut_splits: dict[str, S] = dict(splits)
        for split, rows in zip(("train", *lacking), drawn, strict=True):
            cut_splits[split] = whole.take(rows.tolist())
        empty = [split for split in ("train", *lacking) if not len(cut_splits[split])]
        if empty:
            raise DataError(f"{self.where}: {len(whole)} samples are too few to cut {' and '.join(lacking)} from train")
        notes = tuple(
            f"no split {split}: {len(cut_splits[split])} of {len(whole)} samples of train are it, drawn by split_seed"
            f" {seed}"
            for split in lacking
        )
        return cut_splits, notes

    def listing(self, notes: tuple[str, ...]) -> Listing:
        """What was read; the library tells no files apart that it does not need."""
        files = {entry["filename"] for data in self.splits.values() for entry in data.cache_files}
        return Listing(source=self.where, files_seen=len(files), files_read=len(files), notes=notes)

    def _ids(self, split: str) -> tuple[str, ...]:
        name = self._options.id_column
        with_ids = [split for split, data in self.splits.items() if name in data.column_names]
        if name is None or not with_ids:
            return ()
        where = f"{Path(self.where) / split}, column {name!r}"
        return sample_ids(self.column(split, name, "id_column"), where)

    def _column_and_field(self, data: Dataset, name: str, split: str, option: str) -> tuple[str, Sequence[str]]:
        parts = name.split(".")
        for count in range(len(parts), 0, -1):
            if (top := ".".join(parts[:count])) in data.column_names:
                return top, parts[count:]
        columns = ", ".join(data.column_names)
        raise DataError(
            f"{Path(self.where) / split}: no column {name!r}; found {columns}; options.{option} names another"
        )
