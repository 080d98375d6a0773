"""Reading files with errors that say which file, where in it, and what to do."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

from fedafd.datasets.file_kinds import HEAD_BYTES, kind_of_content
from fedafd.datasets.texts import decoded, text_bytes
from fedafd.domain.errors import DataError

__all__ = [
    "is_file",
    "is_folder",
    "need_file",
    "need_file_of_its_kind",
    "need_folder",
    "need_one",
    "need_plain_path",
    "need_unique",
    "read_bytes",
    "read_json",
    "read_text",
]

_PIECE_BYTES = 1 << 20


def is_folder(path: Path) -> bool:
    """Path.is_dir, which raises for a name that is too long."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """Path.is_file, which raises for a name that is too long."""
    try:
        return path.is_file()
    except OSError:
        return False


def need_folder(path: Path | None, adapter: str) -> Path:
    """`path`, if it is a folder. Raises DataError."""
    if path is None:
        raise DataError(f"{adapter}: needs a path to a folder; set data.path")
    if not is_folder(path):
        raise DataError(f"{path}: not a folder; {adapter} reads its files from one")
    return path


def need_file(path: Path, adapter: str) -> Path:
    """`path`, if it is a file. Raises DataError."""
    if not is_file(path):
        raise DataError(f"{path}: no such file; {adapter} needs it")
    return path


def need_file_of_its_kind(path: Path, adapter: str, start: bytes) -> Path:
    """`path`, if it is a file and begins with `start`, or at least not like another kind, such as a Git LFS pointer.

    Raises DataError; a pipe is never opened.
    """
    with need_file(path, adapter).open("rb") as file:
        head = file.read(HEAD_BYTES)
    if head and not head.startswith(start):
        _refuse_other_kind(head, path)
    return path


def _refuse_other_kind(head: bytes, path: Path) -> None:
    kind = kind_of_content(head)
    if kind is not None:
        raise DataError(f"{path}: is {kind}")


def need_plain_path(name: object, where: str) -> str:
    """`name`, if it is a relative path that stays below its folder. Raises DataError naming `where`."""
    if not isinstance(name, str) or not name:
        raise DataError(f"{where}: file name is {name!r}; must be text")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise DataError(f"{where}: file name {name!r} leaves the folder of images; it must be a plain relative path")
    return name


def need_unique(ids: Sequence[str], where: str, what: str = "sample") -> None:
    """Raise DataError naming the first ids that occur twice; each names a `what`."""
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        more = f" and {len(twice) - 3} more" if len(twice) > 3 else ""
        raise DataError(f"{where}: {', '.join(map(repr, twice[:3]))}{more} occur twice; each {what} must be there once")


def need_one(candidates: Sequence[str], where: object, option: str) -> str | None:
    """The only one of `candidates`; None if there is none. Raises DataError naming several, and the option to set."""
    if len(candidates) > 1:
        raise DataError(
            f"{where}: {len(candidates)} candidates: {', '.join(candidates)}; set options.{option} to the one to read"
        )
    return candidates[0] if candidates else None


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """A file's content. Raises DataError, also for a pipe or device, which might never end.

    A file of more than `most` bytes is refused before it is read, one that does not fit into memory then.
    """
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: cannot be read: {'a folder' if path.is_dir() else 'a pipe, socket or device'}")
        size = path.stat().st_size
        if most is not None and size > most:
            raise DataError(f"{path}: not read, because its {size} bytes are more than {most}; replace or remove it")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except MemoryError:
        raise DataError(f"{path}: does not fit into memory: {size} bytes; split or remove it") from None


def read_text(path: Path, adapter: str, *, longest_line: int | None = None) -> str:
    """A UTF-8 file's content. Raises DataError naming the line that is not UTF-8, holds a NUL, or has more bytes."""
    need_file(path, adapter)
    try:
        with path.open("rb") as file:
            return decoded(text_bytes(_pieces(file, path), path, longest_line), path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except MemoryError:
        raise DataError(f"{path}: does not fit into memory: {path.stat().st_size} bytes; split or remove it") from None


def _pieces(file: IO[bytes], path: Path) -> Iterator[bytes]:
    head = file.read(HEAD_BYTES)
    if head:
        _refuse_other_kind(head, path)
        yield head
    while piece := file.read(_PIECE_BYTES):
        yield piece


def read_json(path: Path, adapter: str) -> Any:
    """A JSON file's content. Raises DataError with the place of a syntax error."""
    try:
        return json.loads(read_text(path, adapter))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON: {error}") from None
