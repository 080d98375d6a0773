"""`cifar100`: labelled images from an npz, or from the official python files without running their pickles."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedafd.datasets.classes import settled_classes
from fedafd.datasets.files import need_file, need_file_of_its_kind, need_folder, need_plain_path, read_bytes
from fedafd.datasets.listing import folder_listing
from fedafd.datasets.partition import check_cut, stratified_cut
from fedafd.datasets.plain_pickle import load_plain_pickle
from fedafd.datasets.samples import ClientData, ImageSplit
from fedafd.datasets.texts import normal_name
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import ClientKind

__all__ = ["CifarOptions", "cifar100"]

_SPLITS = ("train", "val", "test")
_OFFICIAL = ("meta", "train", "test")


@dataclass(frozen=True, kw_only=True)
class CifarOptions:
    """Which file, and how the official files are split."""

    file: str | None = None
    """The .npz to read, or `meta` for the official files, where the folder holds several."""
    val_fraction: float = 0.1
    """The share of each class of the official `train` that is cut for validation."""
    split_seed: int = 0

    def __post_init__(self) -> None:
        check_cut(self.val_fraction, self.split_seed)


def cifar100(path: Path | None, options: CifarOptions | None = None) -> ClientData:
    """CIFAR-100 from a folder with one `*.npz` (arrays `<split>_images`, `<split>_labels`, `class_names`) or with the
    official files `train`, `test`, `meta`; there a share of each class of `train` is the validation split.

    Raises DataError naming the file and what it lacks, or the files that could be meant.
    """
    chosen = options or CifarOptions()
    folder = need_folder(path, "cifar100")
    file = _source(folder, chosen.file)
    read: tuple[str, ...] = _OFFICIAL
    notes: tuple[str, ...] = ()
    if file.suffix.lower() == ".npz":
        read = (file.name,)
        names, splits = _cifar_npz(file)
    else:
        names, splits = _cifar_official(folder, chosen)
        notes = (f"val ({chosen.val_fraction:g} of each class): made from train by split_seed {chosen.split_seed}",)
    kept, of_split, more = settled_classes(names, splits, file)
    listing = folder_listing(folder, read, {".npz"}, notes=notes + more)
    return ClientData(ClientKind.IMAGE, of_split["train"], of_split["val"], of_split["test"], kept, listing=listing)


def _source(folder: Path, wanted: str | None) -> Path:
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() == ".npz" and not p.name.startswith("."))
    if (folder / "meta").is_file():
        files.append(folder / "meta")
    if wanted is not None:
        return need_file(folder / need_plain_path(wanted, "data.options.file"), "cifar100")
    if not files:
        raise DataError(f"{folder}: neither an .npz nor the official files train, test and meta")
    if len(files) > 1:
        candidates = ", ".join(path.name for path in files)
        raise DataError(f"{folder}: {candidates} could each be the data; set the option file to one of them")
    return need_file(files[0], "cifar100")


_NPZ_ERRORS = (
    KeyError,
    ValueError,
    TypeError,
    OSError,
    EOFError,
    SyntaxError,
    tokenize.TokenError,
    RuntimeError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""What NumPy raises for damaged archives, found by mutating good ones; it reads an array's header as Python."""


_Read = tuple[tuple[str, ...], dict[str, ImageSplit]]
"""Class names and splits."""


def _cifar_npz(path: Path) -> _Read:
    need_file_of_its_kind(path, "cifar100", b"PK")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            splits = {s: (arrays[f"{s}_images"], arrays[f"{s}_labels"]) for s in _SPLITS}
            names = _npz_names(arrays["class_names"], path)
    except _NPZ_ERRORS as error:
        fault = "it holds Python objects (pickled); save plain arrays" if "allow_pickle" in str(error) else error
        raise DataError(f"{path}: not the expected arrays: {fault}") from None
    return names, {s: _image_split(*arrays, len(names), f"{path}: {s}") for s, arrays in splits.items()}


def _npz_names(array: NDArray[Any], path: Path) -> tuple[str, ...]:
    if array.ndim != 1 or array.dtype.kind not in "USiu":
        raise DataError(
            f"{path}: class_names must be texts or whole numbers [n], found {array.dtype} {list(array.shape)}"
        )
    return _class_names(array.tolist(), f"{path}: class_names")


def _class_names(raw_names: Sequence[object], where: str) -> tuple[str, ...]:
    """Names as text in NFC. Raises DataError for one that is empty, not UTF-8, or there twice."""
    names = []
    for position, raw in enumerate(raw_names):
        try:
            text = raw.decode("utf-8") if isinstance(raw, bytes) else str(raw)
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: name {position} is not UTF-8: {error.reason}") from None
        names.append(normal_name(text, f"{where}: name {position}"))
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"{where}: {', '.join(map(repr, twice[:5]))} is the name of two or more classes; name each once"
        )
    return tuple(names)


def _cifar_official(folder: Path, options: CifarOptions) -> _Read:
    meta = folder / "meta"
    names = _class_names(_names(_official(meta), "fine_label_names", meta), f"{meta}: fine_label_names")
    images, labels = _official_split(folder / "train")
    whole = _image_split(images, labels, len(names), str(folder / "train"))
    train, val = (
        whole.take(part.tolist()) for part in stratified_cut(whole.labels, [options.val_fraction], options.split_seed)
    )
    if not len(val):
        raise DataError(f"{folder / 'train'}: too few images to cut val from: no class has two or more")
    test = _image_split(*_official_split(folder / "test"), len(names), str(folder / "test"))
    return names, {"train": train, "val": val, "test": test}


def _official_split(path: Path) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    content = _official(path)
    flat, labels = _entry(content, "data", path), _entry(content, "fine_labels", path)
    if not isinstance(flat, np.ndarray) or flat.dtype != np.uint8 or flat.ndim != 2 or flat.shape[1] != 3072:
        raise DataError(f"{path}: `data` is not a uint8 array of shape [n, 3072]")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"{path}: `fine_labels` is not a list of whole numbers")
    return flat.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(labels)


def _official(path: Path) -> Any:
    return load_plain_pickle(read_bytes(need_file_of_its_kind(path, "cifar100", b"\x80")), str(path))


def _entry(content: Any, key: str, path: Path) -> Any:
    value = content.get(key, content.get(key.encode())) if isinstance(content, dict) else None
    if value is None:
        raise DataError(f"{path}: has no entry {key!r}")
    return value


def _names(content: Any, key: str, path: Path) -> list[str | bytes]:
    names = _entry(content, key, path)
    if not isinstance(names, list) or not all(isinstance(name, str | bytes) for name in names):
        raise DataError(f"{path}: {key!r} is not a list of names")
    return names


def _image_split(images: NDArray[np.uint8], labels: NDArray[Any], classes: int, where: str) -> ImageSplit:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise DataError(
            f"{where}: images must be uint8 of shape [n, h, w, 3], found {images.dtype} {list(images.shape)}"
        )
    if not images.size:
        raise DataError(f"{where}: no images, or images without a pixel: the array has shape {list(images.shape)}")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{where}: labels must be whole numbers [n], found {labels.dtype} {list(labels.shape)}")
    if len(images) != len(labels):
        raise DataError(f"{where}: {len(images)} images but {len(labels)} labels")
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(f"{where}: labels must be 0 to {classes - 1}, found {labels.min()} to {labels.max()}")
    return ImageSplit([np.ascontiguousarray(image) for image in images], labels.astype(np.int64))
