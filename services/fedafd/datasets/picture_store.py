"""Pictures by the names that annotations give them, in a folder or an uncompressed tar; all are found at load.

A name is a path below the store. Where no file has this path, one file may stand in whose path ends with it, or whose
whole path it ends with, if no other file and no other name has its last part. Two names never share a file. Names are
compared in Unicode's composed form, because macOS writes them decomposed. Nothing is followed out of the data's folder.
"""

from __future__ import annotations

import io
import os
import posixpath
import tarfile
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

from fedafd.datasets.decoding import MAX_FILE_BYTES
from fedafd.datasets.file_kinds import HEAD_BYTES, kind_of_content
from fedafd.datasets.files import is_file, is_folder, need_plain_path, read_bytes
from fedafd.domain.errors import DataError

__all__ = ["PictureStore", "find_pictures", "open_store"]

_LONGEST_HEADER = 1 << 20
"""Of a member of a tar, with its name and attributes."""


class PictureStore(Protocol):
    """Where pictures lie."""

    @property
    def where(self) -> Path:
        """The folder or tar."""

    @property
    def files(self) -> Collection[str]:
        """Paths below `where` of all files that can be read."""

    @property
    def barred(self) -> Mapping[str, str]:
        """Paths that cannot be read, each with what it is and what to do."""

    def name(self, path: str) -> str:
        """What one of `files` is called in messages."""

    def read(self, path: str) -> bytes:
        """Content of one of `files`. Raises DataError."""


def open_store(root: Path, location: str) -> PictureStore:
    """`root/location`, a folder or a tar. Raises DataError when it is neither."""
    target = root / location
    if is_folder(target):
        return _Folder(target, _roots(root, target))
    if not is_file(target):
        raise DataError(f"{target}: no such folder or tar of images")
    return _Tar(target)


class _Folder:
    def __init__(self, path: Path, roots: tuple[str, ...]) -> None:
        self.where = path
        self.files: list[str] = []
        self.barred: dict[str, str] = {}
        self._walk("", roots, {os.path.realpath(path)})

    def name(self, path: str) -> str:
        return str(self.where / path)

    def read(self, path: str) -> bytes:
        return read_bytes(self.where / path, MAX_FILE_BYTES)

    def _walk(self, below: str, roots: tuple[str, ...], seen: set[str]) -> None:
        """A link is followed within `roots`, and a folder entered once, so that a circle of links ends."""
        try:
            entries = sorted(os.scandir(self.where / below), key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"{self.where / below}: cannot be listed: {error.strerror}") from None
        for entry in entries:
            path = posixpath.join(below, entry.name)
            if entry.is_symlink():
                target = os.path.realpath(entry.path)
                if not Path(target).exists():
                    self.barred[path] = f"is a link to {target}, which is not there; restore or remove it"
                    continue
                if not _within(target, roots):
                    self.barred[path] = f"is a link out of the data's folder, to {target}; copy the file into it"
                    continue
                if entry.is_dir() and target in seen:
                    continue
                seen.add(target)
            if entry.is_dir():
                self._walk(path, roots, seen)
            elif entry.is_file():
                self.files.append(path)
            else:
                self.barred[path] = "is no regular file"


def _roots(root: Path, folder: Path) -> tuple[str, ...]:
    return os.path.realpath(root), os.path.realpath(folder)


def _within(target: str, roots: tuple[str, ...]) -> bool:
    return any(os.path.commonpath([target, root]) == root for root in roots)


class _Headers(io.BufferedIOBase):
    """The file of a tar, from which its headers are read, and nothing longer: a name may say that it has gigabytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int | None = -1, /) -> bytes:
        """As of a file. Raises tarfile.ReadError for more than a header has."""
        if size is None or not 0 <= size <= _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """As of a file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As of a file."""
        return self._file.tell()


class _Tar:
    """Nothing is ever unpacked: the members' offsets are kept."""

    def __init__(self, path: Path) -> None:
        self.where = path
        self._spans: dict[str, tuple[int, int]] = {}
        self.barred: dict[str, str] = {}
        try:
            with path.open("rb") as file, tarfile.open(fileobj=_Headers(file), mode="r:") as tar:
                for member in tar:
                    self._add(member)
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            with path.open("rb") as file:
                fault = kind_of_content(file.read(HEAD_BYTES)) or error
            raise DataError(f"{path}: not a whole, uncompressed tar: {fault}; copy or pack it again") from None
        self.files = list(self._spans)

    def _add(self, member: tarfile.TarInfo) -> None:
        if member.isdir():
            return
        path = posixpath.normpath(need_plain_path(member.name, str(self.where)))
        if member.issym() or member.islnk():
            self.barred[path] = "is a link in the tar; pack it again with --dereference --hard-dereference"
        elif not member.isreg() or member.issparse():
            self.barred[path] = "is no plain file in the tar; pack it again without --sparse"
        elif path in self._spans:
            self.barred[path] = "is twice in the tar; pack it again"
        else:
            self._spans[path] = (member.offset_data, member.size)

    def name(self, path: str) -> str:
        return f"{self.where}: {path}"

    def read(self, path: str) -> bytes:
        offset, size = self._spans[path]
        if size > MAX_FILE_BYTES:
            raise DataError(
                f"{self.name(path)}: not read, because its {size} bytes are more than {MAX_FILE_BYTES}; replace it"
            )
        try:
            with self.where.open("rb") as file:
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise DataError(f"{self.where}: cannot be read: {error.strerror}") from None


class _Index:
    """Paths of a store by their composed form, by last part, and by last part in small letters."""

    def __init__(self, store: PictureStore, names: Iterable[str]) -> None:
        every = {*store.files, *store.barred}
        self.exact = frozenset(store.files)
        self.composed = _grouped(every, _composed)
        self.last = _grouped(every, _last)
        self.caseless = _grouped(every, lambda path: _last(path).casefold())
        self.named = Counter(_last(name) for name in names)
        """How many names have a last part."""


def find_pictures(store: PictureStore, wanted: Mapping[str, str], others: Iterable[str] = ()) -> dict[str, str]:
    """The file of each name in `wanted`; `wanted` says for each where it was given, `others` are further names.

    Raises DataError for the first name without a file of its own, and how many more there are.
    """
    index = _Index(store, {*wanted, *others})
    pictures: dict[str, str] = {}
    owners: dict[str, str] = {}
    faults: list[str] = []
    # Names of files that are there come first, so that none of these files stands in for another name.
    for name, where in sorted(wanted.items(), key=lambda item: posixpath.normpath(item[0]) not in index.exact):
        try:
            path = _path_in_store(store, index, name)
        except DataError as error:
            faults.append(f"{where}: {error}")
            continue
        owner = owners.setdefault(path, name)
        if owner != name:
            faults.append(f"{where}: {name} has no file of its own in {store.where}; {path} belongs to {owner}")
        pictures[name] = path
    if faults:
        more = f"; and {len(faults) - 1} more of {len(wanted)} pictures are not to be found" if len(faults) > 1 else ""
        raise DataError(faults[0] + more)
    return pictures


def _path_in_store(store: PictureStore, index: _Index, name: str) -> str:
    path = posixpath.normpath(name)
    if path in index.exact:
        return _readable(store, path)
    composed, same = _composed(path), index.last.get(_last(path), [])
    for candidates in (index.composed.get(composed, []), _ending(same, composed)):
        if len(candidates) == 1:
            return _readable(store, candidates[0])
        if candidates:
            raise DataError(_several(store, name, candidates))
    if len(same) == 1 and index.named[_last(path)] == 1 and f"/{composed}".endswith(f"/{_composed(same[0])}"):
        return _readable(store, same[0])
    raise DataError(_absent(store, index, name))


def _readable(store: PictureStore, path: str) -> str:
    if path in store.barred:
        raise DataError(f"{store.where}: {path} {store.barred[path]}")
    return path


def _ending(paths: Iterable[str], composed: str) -> list[str]:
    return [path for path in paths if _composed(path).endswith(f"/{composed}")]


def _several(store: PictureStore, name: str, candidates: Sequence[str]) -> str:
    return (
        f"{store.where}: {len(candidates)} files could be {name}: {_listed(candidates)}; name it by its path, or set"
        " options.images to the folder that is meant"
    )


def _absent(store: PictureStore, index: _Index, name: str) -> str:
    elsewhere = index.last.get(_last(name), [])
    other_case = [path for path in index.caseless.get(_last(name).casefold(), []) if path not in elsewhere]
    hint = "add the file, or remove the entry"
    if elsewhere:
        hint = (
            f"only {_listed(elsewhere)}, which may be another picture; name it by its path, or set options.images to"
            " the folder that is meant"
        )
    elif other_case:
        hint = f"only {_listed(other_case)}, in other capital and small letters; rename one of them"
    return f"{store.where}: has no file {name}; {hint}"


def _listed(paths: Sequence[str]) -> str:
    return ", ".join(sorted(paths)[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


def _grouped(paths: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for path in sorted(paths):
        groups[key(path)].append(path)
    return dict(groups)


def _composed(path: str) -> str:
    return unicodedata.normalize("NFC", path)


def _last(path: str) -> str:
    return _composed(path).rpartition("/")[2]
