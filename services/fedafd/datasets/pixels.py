"""Images at one size, and a folder that keeps them decoded: n images, S pixels a side, uint8 [n, 3, S, S].

Decoding and resizing cost far more than reading back: what was decoded once is memory-mapped from then on, in every
stage, round and process. An entry is one .npy file with the SHA-256 of its pixels in its name; it is checked when a
process opens it first, and made again when it does not fit. Losing the folder loses nothing.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import overload

import numpy as np
import PIL
from numpy.typing import NDArray

from fedafd.datasets.image_fit import ImageFit
from fedafd.datasets.samples import ClientData, TextSplit
from fedafd.domain.hashing import sha256_of
from fedafd.telemetry.logging import get_logger

__all__ = ["READER_VERSION", "KeptImages", "PixelCache", "keep_decoded", "resized", "resized_all", "trim_folder"]

READER_VERSION = 2
"""Part of every entry's name: raise it when decoding or `resized` makes other pixels."""

_STALE_PART_SECONDS = 3600.0
_log = get_logger(__name__)

Pixels = NDArray[np.uint8]


def resized(image: Pixels, fit: ImageFit | int) -> Pixels:
    """One RGB image [h, w, 3] as `fit` says; a number squeezes to that side. uint8 [3, S, S], contiguous."""
    return np.ascontiguousarray(ImageFit.of(fit).squared(image).transpose(2, 0, 1))


def resized_all(images: Iterable[Pixels], fit: ImageFit | int) -> Pixels:
    """All images in memory: uint8 [n, 3, S, S]."""
    rows = [resized(image, fit) for image in images]
    size = ImageFit.of(fit).size
    return np.stack(rows) if rows else np.empty((0, 3, size, size), dtype=np.uint8)


class KeptImages(Sequence[Pixels]):
    """Images that stay in memory once they were decoded at a size; for data that a process uses in every round."""

    def __init__(self, images: Sequence[Pixels]) -> None:
        self._images = images
        self._kept: dict[ImageFit, Pixels] = {}

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, index: int) -> Pixels: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Pixels]: ...
    def __getitem__(self, index: int | slice) -> Pixels | Sequence[Pixels]:
        return self._images[index]

    def encoded(self, index: int) -> bytes | None:
        """The content of an image's file; None where it comes from none."""
        encoded = getattr(self._images, "encoded", None)
        return None if encoded is None else encoded(index)

    def name(self, index: int) -> str | None:
        """Where an image comes from; None where that is not known."""
        name = getattr(self._images, "name", None)
        return None if name is None else name(index)

    def resized(self, fit: ImageFit | int) -> Pixels:
        """All images brought to one size: uint8 [n, 3, S, S]; each way asked for is kept."""
        fit = ImageFit.of(fit)
        if fit not in self._kept:
            self._kept[fit] = resized_all(self._images, fit)
        return self._kept[fit]


def keep_decoded(data: ClientData) -> ClientData:
    """The same private data, whose images stay decoded from their first use on."""
    train, val, test = (
        split if isinstance(split, TextSplit) else replace(split, images=KeptImages(split.images))
        for split in (data.train, data.val, data.test)
    )
    return replace(data, train=train, val=val, test=test)


class PixelCache:
    """Decoded images in `folder`, at most `limit_bytes` of them; the least recently used go first.

    A set of images that is larger than the limit, or that the disk has no room for, is decoded into memory instead.
    Processes may share the folder.
    """

    def __init__(self, folder: Path, *, limit_bytes: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._opened: dict[str, Pixels] = {}

    def pixels(self, key: str, images: Sequence[Pixels], fit: ImageFit | int) -> Pixels:
        """The images brought to one size, uint8 [n, 3, S, S]; memory-mapped, private to the caller if written to.

        `key` must name the images' content. Raises DataError for an image that cannot be decoded.
        """
        fit = ImageFit.of(fit)
        name = f"{key}-{fit.name}-r{READER_VERSION}-pillow{PIL.__version__}"
        shape = (len(images), 3, fit.size, fit.size)
        opened = self._opened.get(name)
        if opened is None:
            opened = self._load(name, shape)
        if opened is None:
            opened = self._make(name, images, fit, shape)
        else:
            self._touch(name)
        self._opened[name] = opened
        return opened

    def _entries(self, name: str) -> list[Path]:
        return sorted(self._folder.glob(f"{name}.*.npy"))

    def _touch(self, name: str) -> None:
        for path in self._entries(name):
            with suppress(OSError):
                os.utime(path)

    def _load(self, name: str, shape: tuple[int, ...]) -> Pixels | None:
        for path in self._entries(name):
            try:
                pixels: Pixels = np.lib.format.open_memmap(path, mode="c")
                digest = sha256_of(pixels.reshape(-1).data)
                fits = pixels.dtype == np.uint8 and pixels.shape == shape and digest == path.suffixes[-2][1:]
            except (OSError, EOFError, ValueError, TypeError, IndexError):
                fits = False
            if fits:
                return pixels
            _log.warning("pixel_cache.entry_corrupt", path=str(path), next="decoding again")
            with suppress(OSError):
                path.unlink()
        return None

    def _make(self, name: str, images: Sequence[Pixels], fit: ImageFit, shape: tuple[int, ...]) -> Pixels:
        size_bytes = int(np.prod(shape))
        if 0 < size_bytes <= self._limit_bytes:
            try:
                path = self._write(name, images, fit, shape)
                trim_folder(self._folder, self._limit_bytes, keep={path.name})
                mapped: Pixels = np.lib.format.open_memmap(path, mode="c")
                return mapped
            except OSError as error:
                _log.warning("pixel_cache.not_written", folder=str(self._folder), reason=str(error), bytes=size_bytes)
        return resized_all(images, fit)

    def _write(self, name: str, images: Sequence[Pixels], fit: ImageFit, shape: tuple[int, ...]) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        part = self._folder / f"{name}.{os.getpid()}.part"
        digest = hashlib.sha256()
        try:
            with part.open("wb") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for image in images:
                    row = resized(image, fit)
                    digest.update(row.data)
                    file.write(row.data)
                file.flush()
                os.fsync(file.fileno())
            return part.replace(self._folder / f"{name}.{digest.hexdigest()}.npy")
        finally:
            part.unlink(missing_ok=True)


def trim_folder(folder: Path, limit_bytes: int, *, keep: set[str]) -> int:
    """Remove the least recently used files of `folder` beyond `limit_bytes`, and parts that nobody writes any more.

    Files named in `keep` stay. Returns the number of bytes freed. Other processes may do the same meanwhile.
    """
    files = []
    for path in folder.iterdir():
        with suppress(OSError):
            files.append((path.stat().st_mtime, path.stat().st_size, path))
    stale = time.time() - _STALE_PART_SECONDS
    whole = [entry for entry in files if entry[2].suffix != ".part"]
    gone = [entry for entry in files if entry[2].suffix == ".part" and entry[0] < stale]
    over = sum(size for _, size, _ in whole) - limit_bytes
    for entry in sorted(whole):
        if over > 0 and entry[2].name not in keep:
            gone.append(entry)
            over -= entry[1]
    for _, _, path in gone:
        with suppress(OSError):
            path.unlink()
    return sum(size for _, size, _ in gone)
