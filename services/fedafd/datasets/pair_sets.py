"""Image-caption pairs: `flickr` and `coco`, from Karpathy JSON or COCO captions JSON, images in a folder or a tar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fedafd.datasets.files import image_reader, need_folder, read_json
from fedafd.datasets.samples import LazyImages, PairSplit
from fedafd.domain.errors import DataError

__all__ = ["PairOptions", "pair_splits"]

_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class PairOptions:
    """Where to look below the folder. None means: find it by its usual name."""

    annotations: str | None = None
    """Karpathy JSON; or COCO captions JSON with `{split}` in its name."""
    images: str | None = None
    """Folder or tar of the images."""
    role: Literal["public", "private"] | None = None
    """Training images of this role only, where the annotations give roles."""
    limit: int | None = None
    """At most so many training pairs, the first ones."""


@dataclass(frozen=True)
class _Entry:
    file: str
    captions: tuple[str, ...]


def pair_splits(path: Path | None, options: PairOptions, adapter: str) -> dict[str, PairSplit]:
    """Splits `train`, `val`, `test`. Raises DataError naming the file, or the entry in it, that does not fit."""
    folder = need_folder(path, adapter)
    entries = _entries(folder, options, adapter)
    read, name = image_reader(folder, options.images or _find_images(folder))
    entries["train"] = entries["train"][: options.limit]
    for split in _SPLITS:
        if not entries[split]:
            role = f" of role {options.role}" if options.role else ""
            raise DataError(f"{folder}: no pairs{role} in split {split}")
    return {split: _split(entries[split], read, name) for split in _SPLITS}


def _split(entries: Sequence[_Entry], read: Callable[[str], bytes], name: Callable[[str], str]) -> PairSplit:
    files = [entry.file for entry in entries]
    images = LazyImages(len(files), lambda i: read(files[i]), lambda i: name(files[i]))
    return PairSplit(images, [entry.captions for entry in entries], tuple(files))


def _entries(folder: Path, options: PairOptions, adapter: str) -> dict[str, list[_Entry]]:
    if options.annotations and "{split}" in options.annotations:
        return {split: _coco(folder / options.annotations.format(split=split), adapter) for split in _SPLITS}
    if options.annotations:
        return _karpathy(folder / options.annotations, options.role, adapter)
    found = sorted(folder.glob("dataset_*.json"))
    if found:
        return _karpathy(found[0], options.role, adapter)
    if (folder / "captions_train.json").is_file():
        return {split: _coco(folder / f"captions_{split}.json", adapter) for split in _SPLITS}
    raise DataError(
        f"{folder}: neither dataset_*.json (Karpathy) nor captions_train.json (COCO); set options.annotations"
    )


def _karpathy(path: Path, role: str | None, adapter: str) -> dict[str, list[_Entry]]:
    content = read_json(path, adapter)
    splits: dict[str, list[_Entry]] = {split: [] for split in _SPLITS}
    for number, image in enumerate(_list(content, "images", path)):
        try:
            split = "train" if image["split"] == "restval" else image["split"]
            captions = tuple(sentence["raw"].strip() for sentence in image["sentences"])
            entry = _Entry(image["filename"], captions)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: images[{number}]: lacks {error}") from None
        if split in splits and (split != "train" or role is None or image.get("role") == role):
            splits[split].append(entry)
    return splits


def _coco(path: Path, adapter: str) -> list[_Entry]:
    content = read_json(path, adapter)
    captions: dict[Any, list[str]] = {}
    try:
        for note in _list(content, "annotations", path):
            captions.setdefault(note["image_id"], []).append(note["caption"].strip())
        images = [(image["id"], image["file_name"]) for image in _list(content, "images", path)]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: an entry lacks {error}") from None
    return [_Entry(file, tuple(captions[key])) for key, file in images if key in captions]


def _list(content: Any, key: str, path: Path) -> list[Any]:
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, list):
        raise DataError(f"{path}: has no list {key!r}")
    return found


def _find_images(folder: Path) -> str:
    if (folder / "images").is_dir():
        return "images"
    tars = sorted(entry.name for entry in folder.glob("*.tar"))
    if tars:
        return tars[0]
    raise DataError(f"{folder}: neither a folder images/ nor a .tar of images; set options.images")
