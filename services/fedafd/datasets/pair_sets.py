"""Image-caption pairs: `flickr` and `coco`, from Karpathy JSON or COCO captions JSON, images in a folder or a tar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from fedafd.datasets.files import image_reader, need_folder, need_plain_path, need_unique, read_json
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
    limit: Annotated[int, Field(ge=1)] | None = None
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
    need_unique([entry.file for split in _SPLITS for entry in entries[split]], f"{folder}, over all splits")
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
    splits: dict[str, list[_Entry]] = {split: [] for split in _SPLITS}
    files = []
    for number, image in enumerate(_list(read_json(path, adapter), "images", path)):
        place = f"{path}: images[{number}]"
        split, entry = _karpathy_entry(image, place)
        files.append(entry.file)
        if split != "train" or role is None or image.get("role") == role:
            splits[split].append(entry)
    need_unique(files, str(path))
    return splits


def _karpathy_entry(image: Any, place: str) -> tuple[str, _Entry]:
    try:
        split, captions = image["split"], tuple(sentence["raw"].strip() for sentence in image["sentences"])
        folder, file = image.get("filepath"), need_plain_path(image["filename"], place)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{place}: lacks or garbles {error}") from None
    split = "train" if split == "restval" else split
    if split not in _SPLITS:
        raise DataError(f"{place}: split is {split!r}; must be train, restval, val or test")
    if not any(captions):
        raise DataError(f"{place}: {file} has no caption")
    # Karpathy's COCO names the folder apart from the file; the others do not.
    name = f"{need_plain_path(folder, place)}/{file}" if folder else file
    return split, _Entry(name, tuple(caption for caption in captions if caption))


def _coco(path: Path, adapter: str) -> list[_Entry]:
    """Images that no caption is about are left out."""
    content = read_json(path, adapter)
    images: dict[int | str, str] = {}
    for number, image in enumerate(_list(content, "images", path)):
        place = f"{path}: images[{number}]"
        key, file = _fields(image, ("id", "file_name"), place)
        if key in images:
            raise DataError(f"{place}: id {key!r} occurs twice; each image must be there once")
        images[key] = need_plain_path(file, place)
    need_unique(list(images.values()), str(path))
    captions: dict[int | str, list[str]] = {}
    for number, note in enumerate(_list(content, "annotations", path)):
        place = f"{path}: annotations[{number}]"
        key, caption = _fields(note, ("image_id", "caption"), place)
        if key not in images or not isinstance(caption, str) or not caption.strip():
            raise DataError(f"{place}: needs an image_id that is in images, and a caption; found {key!r}, {caption!r}")
        captions.setdefault(key, []).append(caption.strip())
    return [_Entry(file, tuple(captions[key])) for key, file in images.items() if key in captions]


def _fields(entry: Any, names: tuple[str, str], place: str) -> tuple[Any, Any]:
    if not isinstance(entry, dict) or any(name not in entry for name in names):
        raise DataError(f"{place}: must have {names[0]!r} and {names[1]!r}")
    if not isinstance(entry[names[0]], int | str):
        raise DataError(f"{place}: {names[0]!r} is {entry[names[0]]!r}; must be a number or text")
    return entry[names[0]], entry[names[1]]


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
