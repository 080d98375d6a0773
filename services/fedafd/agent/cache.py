"""Downloaded artifacts, named by their SHA-256: what is here and hashes right is never downloaded again.

A download that breaks off leaves `<sha256>.part`, which the next try continues. Files count as held only after their
hash was checked, once per process.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path

from fedafd.agent.files import disk_full_is_clear, sync_folder
from fedafd.domain.errors import ArtifactCorruptError, InvalidRequestError, StorageFullError
from fedafd.domain.hashing import file_sha256

__all__ = ["ArtifactCache", "PartialDownload"]

_NEWEST = "newest.json"
_HASH = re.compile(r"[0-9a-f]{64}")
_LEFT_FREE_BYTES = 64 << 20
"""Of the disk, for what the site itself writes."""


class ArtifactCache:
    """Files under `folder`, at most `limit_bytes` of them beside those in use."""

    def __init__(self, folder: Path, *, limit_bytes: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._checked: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def find(self, sha256: str) -> Path | None:
        """The file with that content, or None. A file that rotted is removed and does not count.

        Raises InvalidRequestError for what is no hash.
        """
        path = self._path_of(sha256)
        if not path.exists():
            return None
        if sha256 not in self._checked:
            if file_sha256(path) != sha256:
                path.unlink()
                return None
            self._checked.add(sha256)
        os.utime(path)
        return path

    def begin(self, sha256: str, size_bytes: int) -> PartialDownload:
        """Start or continue a download. `size_bytes` is its announced length.

        Raises InvalidRequestError for what is no hash.
        """
        return PartialDownload(self._path_of(sha256), size_bytes, self._checked.add)

    def missing_bytes(self, sizes: Mapping[str, int]) -> int:
        """How much of the artifacts, by hash with their announced lengths, is not here.

        Raises InvalidRequestError for what is no hash and no length.
        """
        missing = 0
        for sha256, size_bytes in sizes.items():
            path = self._path_of(sha256)
            if size_bytes < 0:
                raise InvalidRequestError(f"artifact {sha256}: its announced length is {size_bytes} bytes")
            missing += 0 if path.exists() else size_bytes - PartialDownload.bytes_there(path)
        return missing

    def need_room(self, sizes: Mapping[str, int]) -> None:
        """Raise StorageFullError if the artifacts, by hash with their announced lengths, do not fit on the disk.

        Raises InvalidRequestError for what is no hash and no length.
        """
        if self.room_beside(sizes) < 0:
            needed, free = self.missing_bytes(sizes), self.room_beside({})
            raise StorageFullError(
                f"{self._folder}: {needed:,} bytes have to be downloaded for the round, and {max(0, free):,} may be;"
                " free some space or move state_dir to a larger disk",
                folder=str(self._folder),
            )

    def room_beside(self, sizes: Mapping[str, int]) -> int:
        """Bytes that the disk has room for once these artifacts are here; below 0 where they do not fit."""
        return shutil.disk_usage(self._folder).free - _LEFT_FREE_BYTES - self.missing_bytes(sizes)

    def remember(self, purpose: str, sha256: str) -> None:
        """From now on the artifact is the newest of its purpose."""
        names = self._newest()
        if names.get(purpose) == sha256:
            return
        part = self._folder / f"{_NEWEST}.part"
        with disk_full_is_clear(self._folder):
            part.write_text(json.dumps(names | {purpose: sha256}), encoding="utf-8")
        part.replace(self._folder / _NEWEST)

    def newest(self, purpose: str) -> Path | None:
        """The file that was the last one of that purpose, if it is still here and whole."""
        sha256 = self._newest().get(purpose)
        return None if sha256 is None else self.find(sha256)

    def place_for_base(self, sha256: str) -> Path:
        """Where a file may be made that the download of an artifact takes bytes from; `trim` removes it.

        Raises InvalidRequestError for what is no hash.
        """
        return self._path_of(sha256).with_name(f"base-{sha256}.part")

    def newest_hashes(self, purposes: Collection[str]) -> set[str]:
        """What `newest` would look for."""
        return {sha256 for purpose, sha256 in self._newest().items() if purpose in purposes}

    def _path_of(self, sha256: str) -> Path:
        # The server says it: a path in its place would name, and remove, any file of the site.
        if not _HASH.fullmatch(sha256):
            raise InvalidRequestError(
                f"the task names an artifact by {sha256[:80]!r}, which is no SHA-256 (64 of 0-9 and a-f); nothing was"
                " downloaded. Ask the federation's operator what its aggregator is"
            )
        return self._folder / sha256

    def _newest(self) -> dict[str, str]:
        try:
            names = json.loads((self._folder / _NEWEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        known = names.items() if isinstance(names, dict) else ()
        return {str(purpose): str(sha256) for purpose, sha256 in known if _HASH.fullmatch(str(sha256))}

    def trim(self, keep: Collection[str]) -> int:
        """Remove the least recently used files beyond the limit, and parts that no one will continue.

        `keep` are the hashes of the present task; they stay. Returns the number of bytes freed.
        """
        for part in self._folder.glob("*.part"):
            if part.stem not in keep:
                part.unlink()
        files = [(path, path.stat()) for path in self._folder.iterdir() if _HASH.fullmatch(path.name)]
        total = sum(stat.st_size for _, stat in files)
        freed = 0
        for path, stat in sorted(files, key=lambda item: item[1].st_mtime):
            if total - freed <= self._limit_bytes:
                break
            if path.name not in keep:
                path.unlink()
                self._checked.discard(path.name)
                freed += stat.st_size
        return freed


class PartialDownload:
    """A download on its way. `offset_bytes` is what is there already; append, then finish."""

    def __init__(self, target: Path, size_bytes: int, on_checked: Callable[[str], None]) -> None:
        self._target = target
        self._part = self._part_of(target)
        self.size_bytes = size_bytes
        self._on_checked = on_checked
        self.offset_bytes = self.bytes_there(target)
        if self.offset_bytes > size_bytes:
            self.restart()

    @staticmethod
    def _part_of(target: Path) -> Path:
        return target.with_name(f"{target.name}.part")

    @classmethod
    def bytes_there(cls, target: Path) -> int:
        """How much of the file has been downloaded before."""
        part = cls._part_of(target)
        return part.stat().st_size if part.exists() else 0

    @property
    def complete(self) -> bool:
        """True if as many bytes are there as announced."""
        return self.offset_bytes == self.size_bytes

    def append(self, data: bytes) -> None:
        """Add the next bytes. Raises ArtifactCorruptError for more than announced, StorageFullError on a full disk."""
        if self.offset_bytes + len(data) > self.size_bytes:
            self.restart()
            raise ArtifactCorruptError(
                f"artifact {self._target.name}: more than the announced {self.size_bytes} bytes came",
                sha256=self._target.name,
            )
        with disk_full_is_clear(self._part.parent), self._part.open("ab", buffering=0) as file:
            file.write(data)
        self.offset_bytes += len(data)

    def restart(self) -> None:
        """Throw away what is there."""
        with suppress(FileNotFoundError):
            self._part.unlink()
        self.offset_bytes = 0

    def finish(self) -> Path:
        """Check the hash and put the file in its place. Raises ArtifactCorruptError and forgets the bytes."""
        if self.size_bytes == 0:
            self._part.touch()
        if file_sha256(self._part) != self._target.name:
            self.restart()
            raise ArtifactCorruptError(
                f"artifact {self._target.name}: the received bytes have another hash", sha256=self._target.name
            )
        self._part.replace(self._target)
        sync_folder(self._target.parent)
        self._on_checked(self._target.name)
        return self._target
