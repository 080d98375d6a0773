"""Reading files with errors that say which file, where in it, and what to do."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from fedafd.datasets.texts import decoded
from fedafd.domain.errors import DataError

__all__ = [
    "image_reader",
    "need_file",
    "need_folder",
    "need_plain_path",
    "need_unique",
    "read_bytes",
    "read_json",
    "read_text",
]


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


def need_plain_path(name: object, place: str) -> str:
    """`name`, if it is a relative path that stays below its folder. Raises DataError naming `place`."""
    if not isinstance(name, str) or not name:
        raise DataError(f"{place}: file name is {name!r}; must be text")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise DataError(f"{place}: file name {name!r} leaves the folder of images; it must be a plain relative path")
    return name


def need_unique(ids: Sequence[str], place: str) -> None:
    """Raise DataError naming the first ids that occur twice."""
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        more = f" and {len(twice) - 3} more" if len(twice) > 3 else ""
        raise DataError(f"{place}: {', '.join(map(repr, twice[:3]))}{more} occur twice; each sample must be there once")


def read_bytes(path: Path) -> bytes:
    """A file's content. Raises DataError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def read_text(path: Path, adapter: str) -> str:
    """A UTF-8 file's content. Raises DataError naming the line that is not UTF-8 or holds a NUL."""
    return decoded(read_bytes(need_file(path, adapter)), path)


def read_json(path: Path, adapter: str) -> Any:
    """A JSON file's content. Raises DataError with the place of a syntax error."""
    try:
        return json.loads(read_text(path, adapter))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON: {error}") from None


def image_reader(root: Path, location: str) -> tuple[Callable[[str], bytes], Callable[[str], str]]:
    """How to read an image by file name from `root/location`, a folder or an uncompressed tar; and how to name it.

    A file is found by its path or else by its last part. Raises DataError when it is not there, or when several
    members of a tar have that last part.
    """
    place = root / location
    if place.is_dir():
        return lambda name: read_bytes(_found(place, name)), lambda name: str(place / name)
    if not place.is_file():
        raise DataError(f"{place}: no such folder or tar of images")
    members = _tar_members(place)
    last_parts = Counter(name.rpartition("/")[2] for name in members)
    by_last_part = {name.rpartition("/")[2]: span for name, span in members.items()}

    def read(name: str) -> bytes:
        span = members.get(name)
        if span is None:
            last = name.rpartition("/")[2]
            if last_parts[last] > 1:
                raise DataError(f"{place}: {last_parts[last]} members are named {last}; name one by its path")
            span = by_last_part.get(last)
        if span is None:
            raise DataError(f"{place}: has no member {name}")
        with place.open("rb") as file:
            file.seek(span[0])
            return file.read(span[1])

    return read, lambda name: f"{place}: {name}"


def _found(folder: Path, name: str) -> Path:
    path = folder / name
    return path if path.exists() else folder / name.rpartition("/")[2]


def _tar_members(place: Path) -> dict[str, tuple[int, int]]:
    """Offset and length of each file in a tar; nothing is ever unpacked."""
    members = {}
    try:
        with tarfile.open(place, "r:") as tar:
            for member in tar:
                if member.isreg() and not member.issparse():
                    members[need_plain_path(member.name, str(place))] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise DataError(f"{place}: not a whole, uncompressed tar: {error}; copy or pack it again") from None
    return members
