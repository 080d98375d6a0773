"""The public sets that this distiller works on: shards fetched once, images decoded once, both kept within a limit."""

from __future__ import annotations

import errno
from functools import partial
from pathlib import Path

from fedafd.artifacts.keys import public_set_manifest, public_set_shard
from fedafd.artifacts.manifest import Shard, read_manifest
from fedafd.datasets.pixels import PixelCache, trim_folder
from fedafd.datasets.public_set import PublicSet
from fedafd.distiller.patience import Patience
from fedafd.domain.errors import FedafdError, StorageError, StorageFullError
from fedafd.domain.whole_files import write_whole
from fedafd.storage import ObjectStore
from fedafd.storage.store import get_verified

__all__ = ["PublicSets"]

_OPEN_SETS = 4


class PublicSets:
    """Public sets of `store` by hash. `folder` keeps up to `limit_bytes` of decoded images and as much of shards.

    A store that is away, and a disk that is full, are waited for as long as `patience` does.
    """

    def __init__(self, store: ObjectStore, folder: Path, *, limit_bytes: int, patience: Patience | None = None) -> None:
        self._patience = patience or Patience(give_up_seconds=0)
        self._store, self._shards, self._limit_bytes = store, folder / "shards", limit_bytes
        self._pixels = PixelCache(folder / "pixels", limit_bytes=limit_bytes)
        self._open: dict[str, PublicSet] = {}

    def open(self, sha256: str) -> PublicSet:
        """The set of that hash. Raises ArtifactNotFoundError, ArtifactCorruptError, DataError, StorageFullError."""
        if sha256 not in self._open:
            manifest = read_manifest(
                self._patience.through(lambda: get_verified(self._store, public_set_manifest(sha256), sha256))
            )
            files = {shard.name: self._shards / shard.sha256 for shard in manifest.shards}
            fetch = partial(self._fetch, sha256)
            while len(self._open) >= _OPEN_SETS:
                self._open.pop(next(iter(self._open)))
            self._open[sha256] = PublicSet(manifest, files, fetch=fetch, pixels=self._pixels)
        return self._open[sha256]

    def _fetch(self, sha256: str, shard: Shard, path: Path) -> None:
        self._patience.through(lambda: self._fetch_once(sha256, shard, path))

    def _fetch_once(self, sha256: str, shard: Shard, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, get_verified(self._store, public_set_shard(sha256, shard.name), shard.sha256))
        except OSError as error:
            raise _cache_error(path, error) from error
        trim_folder(path.parent, self._limit_bytes, keep={path.name})


def _cache_error(path: Path, error: OSError) -> FedafdError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFullError(
            f"the distiller's cache {path.parent}: no space left; free some, or give it a bigger disk"
        )
    return StorageError(f"the distiller's cache {path.parent}: cannot be written: {error.strerror}")
