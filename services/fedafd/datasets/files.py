"""Reading files with errors that say which file and what to do."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedafd.domain.errors import DataError

__all__ = ["image_reader", "need_file", "need_folder", "read_json"]


def need_folder(path: Path | None, adapter: str) -> Path:
    """`path`, if it is a folder. Raises DataError."""
    if path is None:
        raise DataError(f"{adapter}: needs a path to a folder; set data.path")
    if not path.is_dir():
        raise DataError(f"{path}: not a folder; {adapter} reads its files from one")
    return path


def need_file(path: Path, adapter: str) -> Path:
    """`path`, if it is a file. Raises DataError."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; {adapter} needs it")
    return path


def read_json(path: Path, adapter: str) -> Any:
    """A JSON file's content. Raises DataError with the place of a syntax error."""
    try:
        return json.loads(need_file(path, adapter).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid JSON: {error}") from None


def image_reader(root: Path, location: str) -> tuple[Callable[[str], bytes], Callable[[str], str]]:
    """How to read an image by file name from `root/location`, a folder or an uncompressed tar; and how to name it.

    In a tar a member is found by its path or by its last part. Raises DataError when neither is there.
    """
    place = root / location
    if place.is_dir():
        return lambda name: _read(place / name), lambda name: str(place / name)
    if not place.is_file():
        raise DataError(f"{place}: no such folder or tar of images")
    try:
        with tarfile.open(place, "r:") as tar:
            members = {member.name: (member.offset_data, member.size) for member in tar if member.isreg()}
    except tarfile.TarError as error:
        raise DataError(f"{place}: not a readable, uncompressed tar: {error}") from None
    by_last_part = {name.rpartition("/")[2]: span for name, span in members.items()}

    def read(name: str) -> bytes:
        span = members.get(name) or by_last_part.get(name.rpartition("/")[2])
        if span is None:
            raise DataError(f"{place}: has no member {name}")
        with place.open("rb") as file:
            file.seek(span[0])
            return file.read(span[1])

    return read, lambda name: f"{place}: {name}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
