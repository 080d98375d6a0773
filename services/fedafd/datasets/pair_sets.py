"""Image-caption pairs: `flickr` and `coco`, from Karpathy JSON or COCO captions JSON, images in a folder or a tar."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import Field

from fedafd.datasets.annotations import SPLITS, CocoEntries, Entry, coco_entries, karpathy_entries
from fedafd.datasets.files import need_folder, need_one, need_unique
from fedafd.datasets.intensity import IntensityRange
from fedafd.datasets.listing import LeftOutReason, Listing, left_out
from fedafd.datasets.picture_store import PictureStore, find_pictures, open_store
from fedafd.datasets.samples import LazyImages, PairSplit
from fedafd.domain.errors import DataError

__all__ = ["PairOptions", "pair_splits", "pictures_listing"]

_COCO = "captions_train.json"
_PACKED = (".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar")


@dataclass(frozen=True)
class PairOptions:
    """Where to look below the folder. None means: find it by its usual name."""

    annotations: str | None = None
    """Karpathy JSON; or COCO captions JSON with `{split}` in its name."""
    images: str | None = None
    """Folder or tar of the images."""
    role: Literal["public", "private"] | None = None
    """Training images of this role only, where the annotations give roles."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """The most training pairs that are read; the first ones count."""
    intensity_range: IntensityRange | None = None
    """The values that become black and white in images of more than 8 bits."""


def pair_splits(path: Path | None, options: PairOptions, adapter: str) -> tuple[dict[str, PairSplit], Listing]:
    """Splits `train`, `val`, `test`, and what was met on the way.

    Raises DataError naming the file, or the entry in it, that does not fit, and the images that are not there.
    """
    folder = need_folder(path, adapter)
    every, notes = _entries(folder, options.annotations, adapter)
    names = [entry.file for split in SPLITS for entry in every[split]]
    need_unique(names, f"{folder}, over all splits")
    chosen = every | {"train": _of_role(every["train"], options.role)[: options.limit]}
    for split in SPLITS:
        if not chosen[split]:
            role = f" of role {options.role}" if options.role else ""
            raise DataError(f"{folder}: no pairs{role} in split {split}")
    store = open_store(folder, options.images or _find_images(folder))
    wanted = {entry.file: entry.where for split in SPLITS for entry in chosen[split]}
    pictures = find_pictures(store, wanted, names)
    splits = {split: _split(chosen[split], store, pictures, options.intensity_range) for split in SPLITS}
    return splits, pictures_listing(folder, store, pictures, names, notes)


def _of_role(entries: Sequence[Entry], role: str | None) -> list[Entry]:
    return [entry for entry in entries if role is None or entry.role == role]


def _split(
    entries: Sequence[Entry], store: PictureStore, pictures: Mapping[str, str], window: IntensityRange | None
) -> PairSplit:
    paths = [pictures[entry.file] for entry in entries]
    images = LazyImages(
        len(paths), lambda i: store.read(paths[i]), lambda i: store.name(paths[i]), intensity_range=window
    )
    return PairSplit(images, [entry.captions for entry in entries], tuple(entry.file for entry in entries))


def _entries(folder: Path, given: str | None, adapter: str) -> tuple[dict[str, list[Entry]], tuple[str, ...]]:
    """Entries of each split, and notes."""
    if given is None:
        usual = sorted(file.name for file in folder.glob("dataset_*.json"))
        usual += [_COCO] if (folder / _COCO).is_file() else []
        given = need_one(usual, f"{folder}, annotations", "annotations")
        if given is None:
            raise DataError(f"{folder}: neither dataset_*.json (Karpathy) nor {_COCO} (COCO); set options.annotations")
        given = "captions_{split}.json" if given == _COCO else given
    notes = []
    read: dict[str, CocoEntries] = {}
    if "{split}" in given:
        read = {split: coco_entries(folder / given.replace("{split}", split), adapter) for split in SPLITS}
        by_split = {split: part.entries for split, part in read.items()}
        without = sum(part.without_caption for part in read.values())
        notes += [f"{without} images that no caption is about are left out"] if without else []
    else:
        by_split = karpathy_entries(folder / given, adapter)
    blank = sum(entry.blank for entries in by_split.values() for entry in entries)
    blank += sum(part.blank for part in read.values())
    notes += [f"{blank} blank captions are left out"] if blank else []
    return by_split, tuple(notes)


def _find_images(folder: Path) -> str:
    usual = ["images"] if (folder / "images").is_dir() else []
    usual += sorted(entry.name for entry in folder.glob("*.tar") if not entry.name.startswith("."))
    source = need_one(usual, f"{folder}, images", "images")
    if source is None:
        packed = sorted(entry.name for entry in folder.iterdir() if entry.name.lower().endswith(_PACKED))
        advice = (
            f"unpack {', '.join(packed[:3])} into images/, or set options.images" if packed else "set options.images"
        )
        raise DataError(f"{folder}: neither a folder images/ nor a .tar of images; {advice}")
    return source


def pictures_listing(
    folder: Path, store: PictureStore, pictures: Mapping[str, str], names: Iterable[str], notes: tuple[str, ...]
) -> Listing:
    """What lies in a store beside the pictures that were found; other files that are known by `names` are not told."""
    read = set(pictures.values())
    left: dict[LeftOutReason, list[tuple[str, str]]] = {reason: [] for reason in LeftOutReason}
    for path in sorted({*store.files, *store.barred} - read - set(names)):
        reason, what = _why_left_out(path, store)
        left[reason].append((what, path))
    return Listing(
        source=str(folder),
        files_seen=len({*store.files, *store.barred}),
        files_read=len(read),
        left_out=tuple(omission for reason, entries in left.items() for omission in left_out(reason, entries)),
        notes=notes,
    )


def _why_left_out(path: str, store: PictureStore) -> tuple[LeftOutReason, str]:
    parts = PurePosixPath(path).parts
    if any(part in ("__MACOSX", "lost+found", "@eaDir") for part in parts):
        return LeftOutReason.SYSTEM, "in a folder of a system"
    if any(part.startswith(".") for part in parts):
        return LeftOutReason.HIDDEN, "name starts with a dot"
    if path in store.barred:
        return LeftOutReason.OUTSIDE, "link or no plain file"
    return LeftOutReason.UNUSED, "no entry names it"
