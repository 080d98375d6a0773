"""An object store in a folder: each key is a file below it."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import IO

from fedafd.domain.errors import ArtifactNotFoundError, StorageError, StorageFullError, StorageUnavailableError
from fedafd.storage.store import CHUNK_BYTES, ObjectInfo, check_key

__all__ = ["FolderStore"]

_TEMPORARY = ".incoming"
_SYNCS_AT_ONCE = 8
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_AWAY = frozenset(
    {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENODEV}
)
"""What a network file system says while its server is away."""


class FolderStore:
    """Files below `root`, written to a temporary name, synced, then renamed, so that no partial object is ever seen.

    One that arrives is a file under its own key that grows; when it is finished, it gets a second name.
    """

    append_bytes = 1

    def __init__(self, root: Path) -> None:
        """Makes `root` if needed. Raises StorageUnavailableError when that is not possible."""
        self.root = root.absolute()
        self._incoming_folder = str(self.root / _TEMPORARY)
        try:
            (self.root / _TEMPORARY).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageUnavailableError(f"store folder {self.root}: cannot be made: {error.strerror}") from error

    def put(self, key: str, data: bytes) -> None:
        with self._incoming(key) as file:
            file.write(data)

    def put_file(self, key: str, path: Path) -> None:
        with path.open("rb") as source, self._incoming(key) as file:
            shutil.copyfileobj(source, file, CHUNK_BYTES)

    def get(self, key: str) -> bytes:
        return b"".join(self.stream(key))

    def stream(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        try:
            file = self._path(key).open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            self._check_there()
            raise ArtifactNotFoundError(f"object {key}: not in the store", key=key) from None
        except OSError as error:
            raise self._error(error, f"object {key}: cannot be read", key) from error
        with file:
            try:
                file.seek(offset)
                left = sys.maxsize if length is None else length
                while chunk := file.read(min(CHUNK_BYTES, left)):
                    left -= len(chunk)
                    yield chunk
            except OSError as error:
                raise self._error(error, f"object {key}: cannot be read", key) from error

    def stat(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        return ObjectInfo(key, path.stat().st_size) if path.is_file() else None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        folder = self.root / prefix.rpartition("/")[0]
        paths = (path for path in folder.rglob("*") if path.is_file())
        keys = sorted(path.relative_to(self.root).as_posix() for path in paths)
        for key in keys:
            if key.startswith(prefix) and not key.startswith(_TEMPORARY + "/"):
                yield ObjectInfo(key, (self.root / key).stat().st_size)

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def arrived(self, key: str) -> int:
        info = self.stat(key)
        return 0 if info is None else info.size_bytes

    def append(self, key: str, offset: int, data: bytes) -> None:
        path = self._path(key)
        try:
            if self.arrived(key) < offset:
                raise ArtifactNotFoundError(f"object {key}: has no bytes before {offset}", key=key)
            self._check_there()
            self._make_folder(path.parent)
            with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
                file.seek(offset)
                file.write(data)
        except OSError as error:
            raise self._error(error, f"object {key}: cannot be written below {self.root}", key) from error

    def arrived_file(self, key: str, _scratch: Path, /) -> Path:
        path = self._path(key)
        if not path.is_file():
            self._check_there()
            raise ArtifactNotFoundError(f"object {key}: nothing has arrived", key=key)
        return path

    def finish(self, key: str, target: str) -> None:
        path = self.arrived_file(key, self.root)
        try:
            _sync(path)
            self._name_again(path, self._path(target))
        except OSError as error:
            raise self._error(error, f"object {target}: cannot be written below {self.root}", target) from error

    def cut(self, key: str, size_bytes: int = 0) -> None:
        try:
            if size_bytes and self.arrived(key) > size_bytes:
                os.truncate(self._path(key), size_bytes)
            elif not size_bytes:
                self.delete(key)
        except OSError as error:
            raise self._error(error, f"object {key}: cannot be cut", key) from error

    def unfinished(self, older_than: timedelta) -> Iterator[ObjectInfo]:
        before = time.time() - older_than.total_seconds()
        for path in sorted((self.root / _TEMPORARY).iterdir()):
            with suppress(FileNotFoundError):  # renamed meanwhile, as whatever is being written is
                status = path.stat()
                if status.st_mtime < before:
                    yield ObjectInfo(f"{_TEMPORARY}/{path.name}", status.st_size)

    def ping(self) -> None:
        if not os.access(self.root / _TEMPORARY, os.W_OK):
            raise StorageUnavailableError(f"store folder {self.root}: not there or not writable")

    def _check_there(self) -> None:
        """Raise StorageUnavailableError if the folder itself is gone, such as a share that is not mounted."""
        if not (self.root / _TEMPORARY).is_dir():
            raise StorageUnavailableError(f"store folder {self.root}: not there; is it mounted?")

    def _error(self, error: OSError, what: str, key: str) -> StorageError:
        if error.errno in _FULL:
            return StorageFullError(f"store folder {self.root}: no space left for {key}; free some", key=key)
        if error.errno in _AWAY or not (self.root / _TEMPORARY).is_dir():
            return StorageUnavailableError(f"{what}: the folder is away: {error.strerror}", key=key)
        return StorageError(f"{what}: {error.strerror}", key=key)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _make_folder(self, folder: Path) -> None:
        """Make a folder below the root, which may have gone a moment ago: nothing is written beside a share."""
        if folder.is_dir():
            return
        current = self.root
        for part in folder.relative_to(self.root).parts:
            current /= part
            current.mkdir(exist_ok=True)

    def _name_again(self, path: Path, target: Path) -> None:
        """Give the file a second name, without a moment in which there is no whole object of that name."""
        name = self.root / _TEMPORARY / f"name-{uuid.uuid4().hex}"
        try:
            os.link(path, name)
        except OSError:  # a file system without second names
            self.put_file(target.relative_to(self.root).as_posix(), path)
            return
        try:
            self._make_folder(target.parent)
            name.replace(target)
            _sync(target.parent)
        finally:
            name.unlink(missing_ok=True)

    def put_batch(self, objects: Mapping[str, bytes]) -> None:
        written: dict[str, str] = {}
        key = next(iter(objects), "")
        try:
            for key, data in objects.items():
                self._path(key)
                descriptor, written[key] = tempfile.mkstemp(dir=self._incoming_folder)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
            # At the same time, since a file system writes down at once what several wait for.
            with ThreadPoolExecutor(min(_SYNCS_AT_ONCE, max(1, len(written)))) as pool:
                list(pool.map(_sync, written.values()))
            folders = {self._path(key).parent for key in written}
            for folder in folders:
                self._make_folder(folder)
            for key, name in written.items():
                Path(name).replace(self.root / key)
            for folder in folders:
                _sync(folder)
        except OSError as error:
            raise self._error(error, f"object {key}: cannot be written below {self.root}", key) from error
        finally:
            for name in written.values():
                Path(name).unlink(missing_ok=True)  # not there where it has its key

    @contextmanager
    def _incoming(self, key: str) -> Iterator[IO[bytes]]:
        target = self._path(key)
        name = ""
        try:
            descriptor, name = tempfile.mkstemp(dir=self._incoming_folder)
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            self._make_folder(target.parent)
            Path(name).replace(target)
            name = ""
            _sync(target.parent)
        except OSError as error:
            raise self._error(error, f"object {key}: cannot be written below {self.root}", key) from error
        finally:
            if name:
                Path(name).unlink(missing_ok=True)


def _sync(path: Path | str) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
