"""Model versions that the query worker holds: fetched from the object store, loaded, the last few kept in memory."""

from __future__ import annotations

import hashlib
import tempfile
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from fedafd.domain.errors import ArtifactCorruptError
from fedafd.learning.loaded_model import LoadedModel
from fedafd.learning.loading import load_model
from fedafd.messaging.query_messages import QueryFile
from fedafd.storage import ObjectStore
from fedafd.storage.store import get_verified

__all__ = ["HeldVersion", "Versions"]

_HELD = 3
_MODEL_ENDINGS = (".json", ".safetensors")


class HeldVersion(NamedTuple):
    """A loaded model, and a name that equal weights share."""

    key: str
    model: LoadedModel


class Versions:
    """Loads from `store` by way of a folder below `folder`, which is removed at once."""

    def __init__(self, store: ObjectStore, folder: Path, device: str) -> None:
        self._store, self._folder, self._device = store, folder, device
        self._held: OrderedDict[str, HeldVersion] = OrderedDict()

    def open(self, files: Iterable[QueryFile]) -> HeldVersion:
        """The version of these files. Raises ArtifactNotFoundError, ArtifactCorruptError, DataError, StorageError."""
        listed = sorted(files, key=lambda file: file.path)
        weighty = (file for file in listed if file.path.endswith(_MODEL_ENDINGS))
        key = hashlib.sha256("".join(f"{file.path}\0{file.sha256}\n" for file in weighty).encode()).hexdigest()
        if key not in self._held:
            self._held[key] = HeldVersion(key, self._loaded(listed))
            while len(self._held) > _HELD:
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        return self._held[key]

    def _loaded(self, files: Iterable[QueryFile]) -> LoadedModel:
        self._folder.mkdir(parents=True, exist_ok=True)
        # Beside the cache, and not in the system's folder, which may be small and in memory.
        with tempfile.TemporaryDirectory(dir=self._folder, prefix="version-", ignore_cleanup_errors=True) as made:
            for file in files:
                place = Path(made) / _checked(file.path)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(get_verified(self._store, file.key, file.sha256))
            return load_model(made, device=self._device)


def _checked(path: str) -> str:
    plain = PurePosixPath(path)
    if plain.is_absolute() or ".." in plain.parts or "\\" in path or "\0" in path or not plain.parts:
        raise ArtifactCorruptError(f"model file {path!r}: is no plain relative path", key=path)
    return path
