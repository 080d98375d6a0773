"""Reading files with errors that say which file, where in it, and what to do."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from fedafd.datasets.texts import decoded
from fedafd.domain.errors import DataError

__all__ = [
    "need_file",
    "need_folder",
    "need_one",
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


def need_one(candidates: Sequence[str], place: object, option: str) -> str | None:
    """The only one of `candidates`; None if there is none. Raises DataError naming several, and the option to set."""
    if len(candidates) > 1:
        raise DataError(
            f"{place}: {len(candidates)} candidates: {', '.join(candidates)}; set options.{option} to the one to read"
        )
    return candidates[0] if candidates else None


def read_bytes(path: Path) -> bytes:
    """A file's content. Raises DataError, also for a pipe or device, which might never end."""
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: cannot be read: {'a folder' if path.is_dir() else 'a pipe, socket or device'}")
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
