"""`image-folder`: pictures in `<class>/` folders, or in `<split>/<class>/`; what is not split is split here.

A cut made here is stratified by class and drawn from `split_seed`: every class is in every part.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from fedafd.datasets.classes import settled_classes
from fedafd.datasets.decoding import MAX_FILE_BYTES
from fedafd.datasets.files import need_folder, read_bytes
from fedafd.datasets.folder_scan import ENDINGS, FolderScan, shown
from fedafd.datasets.intensity import IntensityRange
from fedafd.datasets.partition import check_cuts, stratified_cut
from fedafd.datasets.samples import ClientData, ImageSplit, LazyImages
from fedafd.datasets.texts import is_visible
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import ClientKind

__all__ = ["ImageFolderOptions", "image_folder"]

_SPLITS = ("train", "val", "test")
_SPLIT_NAMES = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validation", "dev"), "val"
)
_Files = dict[str, list[Path]]
"""Pictures by class, both in order."""


@dataclass(frozen=True, kw_only=True)
class ImageFolderOptions:
    """How a folder of pictures is read."""

    splits: Literal["auto", "folders", "none"] = "auto"
    """Whether folders named train, val and test are splits or classes; auto: splits, where they hold class folders."""
    val_fraction: float = 0.1
    """The share of each class that is cut for validation, where there is no folder for it."""
    test_fraction: float = 0.2
    split_seed: int = 0
    intensity_range: IntensityRange | None = None
    """The values that become black and white in pictures of one channel and more than 8 bits."""
    follow_links: bool = False
    """Follow links out of the folder; otherwise files behind them are left out."""

    def __post_init__(self) -> None:
        check_cuts(self.val_fraction, self.test_fraction, self.split_seed)


def image_folder(path: Path | None, options: ImageFolderOptions | None = None) -> ClientData:
    """Pictures in class folders, perhaps below split folders. Raises DataError for what does not fit."""
    chosen = options or ImageFolderOptions()
    folder = need_folder(path, "image-folder")
    scan = FolderScan(folder, chosen.follow_links)
    split_folders = _split_folders(scan, chosen.splits) or {"train": folder}
    by_split = {split: _class_files(scan, folder_of_split) for split, folder_of_split in split_folders.items()}
    names = tuple(sorted({name for files in by_split.values() for name in files}))
    if len(names) < 2:
        raise DataError(f"{split_folders['train']}: needs two or more class folders, found {len(names)}")
    splits = {
        split: _split_of(by_split[split], names, split_folders[split], chosen) for split in _SPLITS if split in by_split
    }
    notes = _alike(names)
    missing = tuple(split for split in _SPLITS if split not in splits)
    if missing:
        own = [path for name in names for path in by_split["train"].get(name, ())]
        splits, note = _with_cut(splits, names, missing, split_folders["train"], own, chosen)
        notes += note
    kept, of_split, more = settled_classes(names, splits, folder)
    listing = scan.listing(sum(map(len, of_split.values())), notes + more + scan.unread_note())
    return ClientData(ClientKind.IMAGE, of_split["train"], of_split["val"], of_split["test"], kept, listing=listing)


def _split_folders(scan: FolderScan, choice: str) -> dict[str, Path] | None:
    """The folder of each split that has one; None where the folders at the top are classes. Raises DataError."""
    look = scan.look(scan.root)
    named = [folder for folder in look.folders if folder.name.casefold() in _SPLIT_NAMES]
    others = [folder for folder in look.folders if folder not in named]
    _leave_out_loose(scan, look.pictures)
    if choice == "none" or (choice == "auto" and not (named and _are_splits(scan, named, others))):
        return None
    by_split: dict[str, Path] = {}
    for folder in named:
        split = _SPLIT_NAMES[folder.name.casefold()]
        if split in by_split:
            raise DataError(
                f"{scan.root}: {by_split[split].name} and {folder.name} are both a {split} folder; keep one"
            )
        by_split[split] = folder
    if "train" not in by_split:
        there = ", ".join(folder.name for folder in named) or "no folder of a split"
        raise DataError(
            f"{scan.root}: has {there}, but no folder train; set the option splits: none if these are classes"
        )
    for folder in others:
        scan.leave_out_unused(folder, "in no split folder")
    return by_split


def _are_splits(scan: FolderScan, named: Sequence[Path], others: Sequence[Path]) -> bool:
    """Whether folders with the names of splits are splits. Raises DataError where they might be classes as well."""
    looks = {folder: FolderScan(scan.root, scan.follow_links).look(folder) for folder in named}
    with_classes = [p for p in named if any(scan.has_pictures_below(below) for below in looks[p].folders)]
    with_pictures = [folder for folder in named if looks[folder].pictures]
    other = [folder for folder in others if scan.has_pictures_below(folder)]
    has_train = any(_SPLIT_NAMES[folder.name.casefold()] == "train" for folder in named)
    if other and (not with_classes or len(named) == 1 or not has_train):
        return False
    if not other and not with_pictures:
        return True
    if not other and len(named) == 1:
        return False
    there = ", ".join(folder.name for folder in named)
    why = f"{other[0].name} holds pictures, too" if other else f"{with_pictures[0].name} holds pictures without a class"
    raise DataError(
        f"{scan.root}: the folders {there} may be splits or classes, because {why}; set the option splits: folders or"
        " splits: none"
    )


def _class_files(scan: FolderScan, split_folder: Path) -> _Files:
    """The pictures of each class folder of `split_folder`, by the class's name in NFC. Raises DataError."""
    look = scan.look(split_folder)
    if split_folder != scan.root:
        _leave_out_loose(scan, look.pictures)
    files: _Files = {}
    folders: dict[str, Path] = {}
    for folder in look.folders:
        name = unicodedata.normalize("NFC", folder.name)
        if not _is_text(name):
            raise DataError(
                f"{shown(folder)!r}: the class folder's name is blank, or not plain text in UTF-8; rename it"
            )
        if name in files:
            raise DataError(
                f"{split_folder}: two class folders are named {name!r}, in two ways of Unicode ({folders[name].name!a},"
                f" {folder.name!a}); keep one"
            )
        files[name], folders[name] = _pictures_of(scan, folder), folder
    return dict(sorted(files.items()))


def _is_text(name: str) -> bool:
    return is_visible(name) and not any(unicodedata.category(character) in ("Cc", "Cs") for character in name)


def _pictures_of(scan: FolderScan, folder: Path) -> list[Path]:
    look = scan.look(folder)
    nested = sum(scan.leave_out_nested(below) for below in look.folders)
    if not look.pictures and (look.others or nested):
        kinds = [f"{count} {ending}" for ending, count in Counter(look.others).most_common(5)]
        deeper = [f"{nested} in folders below it, which are not read"] if nested else []
        raise DataError(
            f"{folder}: a class folder without a picture that is read; it holds {', '.join(kinds + deeper)}; known"
            f" endings: {', '.join(sorted(ENDINGS))}"
        )
    return list(look.pictures)


def _leave_out_loose(scan: FolderScan, pictures: Sequence[Path]) -> None:
    for path in pictures:
        scan.leave_out_unused(path, "in no class folder")


def _split_of(
    files: Mapping[str, list[Path]], names: Sequence[str], folder: Path, options: ImageFolderOptions
) -> ImageSplit:
    paths = [path for name in names for path in files.get(name, ())]
    labels = [label for label, name in enumerate(names) for _ in files.get(name, ())]
    if not paths:
        raise DataError(f"{folder}: no images in its class folders; known endings: {', '.join(sorted(ENDINGS))}")
    images = LazyImages(
        len(paths),
        lambda i: read_bytes(paths[i], MAX_FILE_BYTES),
        lambda i: shown(paths[i]),
        intensity_range=options.intensity_range,
    )
    return ImageSplit(images, np.array(labels, dtype=np.int64))


def _with_cut(
    splits: Mapping[str, ImageSplit],
    names: Sequence[str],
    missing: Sequence[str],
    folder: Path,
    paths: Sequence[Path],
    options: ImageFolderOptions,
) -> tuple[dict[str, ImageSplit], tuple[str, ...]]:
    """All three splits, those that are missing cut from train, whose files are `paths`; and a note that says so.

    A picture's part is drawn by its place below the folder: it keeps it while others, and classes, come and go.
    """
    whole = splits["train"]
    counts = np.bincount(whole.labels, minlength=len(names))
    needed = 1 + len(missing)
    few = [f"{name!r} ({count})" for name, count in zip(names, counts, strict=True) if 0 < count < needed]
    if few:
        more = f" and {len(few) - 5} more" if len(few) > 5 else ""
        raise DataError(
            f"{folder}: too few images to cut {' and '.join(missing)} from class {', '.join(few[:5])}{more}: each class"
            f" needs {needed} or more; add images, or lay the splits out as folders yourself"
        )
    fractions = [options.val_fraction if split == "val" else options.test_fraction for split in missing]
    own = [Path(os.path.relpath(path, folder)).as_posix() for path in paths]
    train, *parts = stratified_cut(whole.labels, fractions, options.split_seed, own)
    cut_splits = dict(splits) | {split: whole.take(part.tolist()) for split, part in zip(missing, parts, strict=True)}
    shares = " and ".join(f"{split} ({share:g} of each class)" for split, share in zip(missing, fractions, strict=True))
    source = f"folder {folder.name}" if len(missing) < 2 else "class folders"
    note = f"{shares}: made from the {source} by split_seed {options.split_seed}"
    return cut_splits | {"train": whole.take(train.tolist())}, (note,)


def _alike(names: Sequence[str]) -> tuple[str, ...]:
    """A note for classes whose names differ in capitals, spaces or the way of writing only."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(" ".join(unicodedata.normalize("NFKC", name).casefold().split()), []).append(name)
    return tuple(
        f"classes {', '.join(map(repr, alike))} have nearly the same name; are they one?"
        for alike in groups.values()
        if len(alike) > 1
    )
