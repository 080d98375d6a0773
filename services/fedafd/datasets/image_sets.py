"""Labelled images: `cifar100` (npz, or the official python layout without running its pickles) and `image-folder`."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedafd.datasets.files import need_file, need_folder, read_bytes
from fedafd.datasets.plain_pickle import load_plain_pickle
from fedafd.datasets.samples import ClientData, ImageSplit, LazyImages
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import ClientKind

__all__ = ["cifar100", "image_folder"]

_SPLITS = ("train", "val", "test")
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"})


def cifar100(path: Path | None) -> ClientData:
    """CIFAR-100 from a folder with `*.npz` (arrays `<split>_images`, `<split>_labels`, `class_names`) or with the
    official files `train`, `test`, `meta`; there the last tenth of `train` is the validation split.

    Raises DataError naming the file and what it lacks.
    """
    folder = need_folder(path, "cifar100")
    archives = sorted(folder.glob("*.npz"))
    if archives:
        return _cifar_npz(archives[0])
    if (folder / "meta").is_file():
        return _cifar_official(folder)
    raise DataError(f"{folder}: neither an .npz nor the official files train, test and meta")


_NPZ_ERRORS = (
    KeyError,
    ValueError,
    TypeError,
    OSError,
    EOFError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What NumPy raises for damaged archives, found by mutating good ones; it reads an array's header as Python."""


def _cifar_npz(path: Path) -> ClientData:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            splits = {s: (arrays[f"{s}_images"], arrays[f"{s}_labels"]) for s in _SPLITS}
            names = tuple(str(name) for name in arrays["class_names"])
    except _NPZ_ERRORS as error:
        raise DataError(f"{path}: not the expected arrays: {error}") from None
    made = {s: _image_split(images, labels, len(names), f"{path}: {s}") for s, (images, labels) in splits.items()}
    return ClientData(ClientKind.IMAGE, made["train"], made["val"], made["test"], names)


def _cifar_official(folder: Path) -> ClientData:
    names = tuple(_strings(_official(folder / "meta"), "fine_label_names", folder / "meta"))
    images, labels = _official_split(folder / "train")
    cut = max(1, len(images) // 10)
    where = str(folder / "train")
    train = _image_split(images[:-cut], labels[:-cut], len(names), where)
    val = _image_split(images[-cut:], labels[-cut:], len(names), where)
    test = _image_split(*_official_split(folder / "test"), len(names), str(folder / "test"))
    return ClientData(ClientKind.IMAGE, train, val, test, names)


def _official_split(path: Path) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    content = _official(path)
    flat, labels = _entry(content, "data", path), _entry(content, "fine_labels", path)
    if not isinstance(flat, np.ndarray) or flat.dtype != np.uint8 or flat.ndim != 2 or flat.shape[1] != 3072:
        raise DataError(f"{path}: `data` is not a uint8 array of shape [n, 3072]")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"{path}: `fine_labels` is not a list of whole numbers")
    return flat.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(labels)


def _official(path: Path) -> Any:
    return load_plain_pickle(read_bytes(need_file(path, "cifar100")), str(path))


def _entry(content: Any, key: str, path: Path) -> Any:
    found = content.get(key, content.get(key.encode())) if isinstance(content, dict) else None
    if found is None:
        raise DataError(f"{path}: has no entry {key!r}")
    return found


def _strings(content: Any, key: str, path: Path) -> list[str]:
    found = _entry(content, key, path)
    if not isinstance(found, list) or not all(isinstance(name, str | bytes) for name in found):
        raise DataError(f"{path}: {key!r} is not a list of names")
    return [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in found]


def image_folder(path: Path | None) -> ClientData:
    """Images in `<split>/<class>/` sub-folders, or in `<class>/` alone, of which every tenth goes to validation and
    every fifth to the test split. Raises DataError for a folder without classes or images.
    """
    folder = need_folder(path, "image-folder")
    if (folder / "train").is_dir():
        names = _class_names(folder / "train")
        made = {split: _folder_split(folder / split, names) for split in _SPLITS}
        return ClientData(ClientKind.IMAGE, made["train"], made["val"], made["test"], names)
    names = _class_names(folder)
    files = _listed(folder, names)
    rest = [entry for index, entry in enumerate(files) if index % 5]
    parts = [entry for i, entry in enumerate(rest) if i % 8], rest[::8], files[::5]
    if not all(parts):
        raise DataError(f"{folder}: {len(files)} images are too few for a train, a validation and a test split")
    train, val, test = (_images_of(part) for part in parts)
    return ClientData(ClientKind.IMAGE, train, val, test, names)


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(_folders(folder)))
    if len(names) < 2:
        raise DataError(f"{folder}: needs two or more class folders, found {len(names)}")
    return names


def _listed(folder: Path, names: Sequence[str]) -> list[tuple[Path, int]]:
    found = [
        (path, label)
        for label, name in enumerate(names)
        for path in sorted((folder / name).glob("*"))
        if path.suffix.lower() in _SUFFIXES
    ]
    if not found:
        raise DataError(f"{folder}: no images in its class folders; known endings: {', '.join(sorted(_SUFFIXES))}")
    return found


def _folders(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]


def _folder_split(folder: Path, names: Sequence[str]) -> ImageSplit:
    unknown = sorted(set(_folders(need_folder(folder, "image-folder"))) - set(names))
    if unknown:
        raise DataError(f"{folder / unknown[0]}: a class that train does not have; train has {', '.join(names[:10])}")
    return _images_of(_listed(folder, names))


def _images_of(files: Sequence[tuple[Path, int]]) -> ImageSplit:
    paths = [path for path, _ in files]
    images = LazyImages(len(paths), lambda i: read_bytes(paths[i]), lambda i: str(paths[i]))
    return ImageSplit(images, np.array([label for _, label in files], dtype=np.int64))


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
