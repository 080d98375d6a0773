"""An object store in a folder: each key is a file below it."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import IO

from fedafd.domain.errors import ArtifactNotFoundError, StorageError, StorageFullError, StorageUnavailableError
from fedafd.storage.store import CHUNK_BYTES, ObjectInfo, check_key

__all__ = ["FolderStore"]

_TEMPORARY = ".incoming"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_AWAY = frozenset(
    {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENODEV}
)
"""What a network file system says while its server is away."""


class FolderStore:
    """Files below `root`, written to a temporary name, synced, then renamed, so that no partial object is ever seen."""

    def __init__(self, root: Path) -> None:
        """Makes `root` if needed. Raises StorageUnavailableError when that is not possible."""
        self.root = root.absolute()
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

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
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
                while chunk := file.read(CHUNK_BYTES):
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

    def unfinished(self, older_than: timedelta) -> Iterator[ObjectInfo]:
        before = time.time() - older_than.total_seconds()
        for path in sorted((self.root / _TEMPORARY).iterdir()):
            with suppress(FileNotFoundError):  # renamed meanwhile, as whatever is being written is
                found = path.stat()
                if found.st_mtime < before:
                    yield ObjectInfo(f"{_TEMPORARY}/{path.name}", found.st_size)

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

    @contextmanager
    def _incoming(self, key: str) -> Iterator[IO[bytes]]:
        target = self._path(key)
        temporary: Path | None = None
        try:
            with tempfile.NamedTemporaryFile(dir=self.root / _TEMPORARY, delete=False) as file:
                temporary = Path(file.name)
                yield file.file
                file.flush()
                os.fsync(file.fileno())
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(target)
            _sync_folder(target.parent)
        except OSError as error:
            raise self._error(error, f"object {key}: cannot be written below {self.root}", key) from error
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
