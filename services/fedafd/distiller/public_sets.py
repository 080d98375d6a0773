"""The public sets that this distiller works on: shards fetched once, images decoded once, both kept within a limit."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from fedafd.datasets.pixels import PixelCache, trim_folder
from fedafd.datasets.public_set import PublicSet
from fedafd.domain.manifest import MANIFEST_NAME, Shard, read_manifest
from fedafd.storage import ObjectStore
from fedafd.storage.store import get_verified

__all__ = ["PublicSets"]

_OPEN_SETS = 4


class PublicSets:
    """Public sets of `store` by hash. `folder` keeps up to `limit_bytes` of decoded images and as much of shards."""

    def __init__(self, store: ObjectStore, folder: Path, *, limit_bytes: int) -> None:
        self._store, self._shards, self._limit_bytes = store, folder / "shards", limit_bytes
        self._pixels = PixelCache(folder / "pixels", limit_bytes=limit_bytes)
        self._open: dict[str, PublicSet] = {}

    def open(self, sha256: str) -> PublicSet:
        """The set of that hash. Raises ArtifactNotFoundError, ArtifactCorruptError, DataError."""
        if sha256 not in self._open:
            prefix = f"public-sets/{sha256}"
            manifest = read_manifest(get_verified(self._store, f"{prefix}/{MANIFEST_NAME}", sha256))
            files = {shard.name: self._shards / shard.sha256 for shard in manifest.shards}
            fetch = partial(self._fetch, prefix)
            while len(self._open) >= _OPEN_SETS:
                self._open.pop(next(iter(self._open)))
            self._open[sha256] = PublicSet(manifest, files, fetch=fetch, pixels=self._pixels)
        return self._open[sha256]

    def _fetch(self, prefix: str, shard: Shard, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            part.write_bytes(get_verified(self._store, f"{prefix}/{shard.name}", shard.sha256))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        trim_folder(path.parent, self._limit_bytes, keep={path.name})
