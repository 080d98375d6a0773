"""`parquet`: files in the Hugging Face image layout, with labels, texts or captions; options name other columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fedafd.datasets.classes import settled_classes
from fedafd.datasets.column_options import ColumnOptions
from fedafd.datasets.column_values import caption_lists, need_apart, picture_bytes, sample_ids, sound_texts
from fedafd.datasets.files import need_folder
from fedafd.datasets.label_lists import column_labels
from fedafd.datasets.listing import Listing, folder_listing
from fedafd.datasets.parquet_files import SPLITS, open_parquet, read_column, split_files
from fedafd.datasets.samples import ClientData, ImageSplit, LazyImages, PairSplit, Split, TextSplit
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import ClientKind

__all__ = ["parquet_client", "parquet_pairs"]

_SHOWN = 3


def parquet_pairs(path: Path | None, options: ColumnOptions) -> tuple[dict[str, PairSplit], Listing]:
    """Columns of images and captions, and perhaps of ids. Raises DataError naming what is missing, and where."""
    folder = need_folder(path, "parquet")
    files = _files(folder, options)
    pairs = {split: _pairs(files[split], options) for split in SPLITS}
    return pairs, _listing(folder, files, need_apart(pairs, folder))


def parquet_client(path: Path | None, kind: ClientKind, options: ColumnOptions) -> ClientData:
    """Pairs as above; or images and labels; or texts and labels."""
    if kind is ClientKind.PAIR:
        pairs, listing = parquet_pairs(path, options)
        return ClientData(kind, pairs["train"], pairs["val"], pairs["test"], listing=listing)
    folder = need_folder(path, "parquet")
    files = _files(folder, options)
    columns = {split: read_column(files[split], options.label_column, "label_column") for split in SPLITS}
    names, labels, notes = column_labels(columns)
    splits: Mapping[str, Split]
    if kind is ClientKind.TEXT:
        texts = {split: TextSplit(_texts(files[split], options), labels[split]) for split in SPLITS}
        kept, splits, class_notes = settled_classes(names, texts, folder)
    else:
        images = {split: ImageSplit(_images(files[split], options), labels[split]) for split in SPLITS}
        kept, splits, class_notes = settled_classes(names, images, folder)
    listing = _listing(folder, files, (*notes, *class_notes))
    return ClientData(kind, splits["train"], splits["val"], splits["test"], kept, listing)


def _files(folder: Path, options: ColumnOptions) -> dict[str, list[Path]]:
    return split_files(folder, {split: getattr(options, split) for split in SPLITS})


def _listing(folder: Path, files: Mapping[str, list[Path]], notes: tuple[str, ...]) -> Listing:
    read = {path.relative_to(folder).as_posix() for paths in files.values() for path in paths}
    return folder_listing(folder, read, {".parquet"}, below=("", "data"), notes=notes)


def _texts(files: list[Path], options: ColumnOptions) -> list[str]:
    return sound_texts(read_column(files, options.text_column, "text_column"))


def _pairs(files: list[Path], options: ColumnOptions) -> PairSplit:
    column = read_column(files, options.caption_column, "caption_column")
    return PairSplit(_images(files, options), caption_lists(column), _ids(files, options.id_column))


def _ids(files: list[Path], name: str | None) -> tuple[str, ...]:
    if name is None:
        return ()
    with_ids = [file for file in files if _has_column(file, name)]
    if not with_ids:
        return ()
    if len(with_ids) < len(files):
        other = next(file for file in files if file not in with_ids)
        raise DataError(f"{other}: no column {name!r}, but {with_ids[0]} has it; write both alike")
    column = read_column(files, name, "id_column")
    return sample_ids(column, f"{', '.join(map(str, files[:_SHOWN]))}, column {name!r}")


def _has_column(file: Path, name: str) -> bool:
    with open_parquet(file) as opened:
        names: list[str] = opened.schema_arrow.names
    return name in names or name.partition(".")[0] in names


def _images(files: list[Path], options: ColumnOptions) -> LazyImages:
    column = read_column(files, options.image_column, "image_column")
    content = [picture_bytes(cell, column.where(row)) for row, cell in enumerate(column.values)]
    return LazyImages(len(content), content.__getitem__, column.where, intensity_range=options.intensity_range)
