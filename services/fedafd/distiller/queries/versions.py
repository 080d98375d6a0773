"""Model versions that the query worker holds: loaded in a thread beside the answers, a limited number in memory."""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from fedafd.distiller.public_sets import PublicSets
from fedafd.distiller.queries.gallery import Gallery
from fedafd.domain.errors import ArtifactCorruptError, TooManyRequestsError
from fedafd.domain.hashing import sha256_of
from fedafd.learning.loaded_model import LoadedModel
from fedafd.learning.loading import load_model
from fedafd.messaging.query_messages import QueryFile
from fedafd.storage import ObjectStore
from fedafd.storage.store import get_verified

__all__ = ["HeldVersion", "Versions"]

_GALLERIES = 2
_MODEL_ENDINGS = (".json", ".safetensors")
_RETRY_SECONDS = 10


class HeldVersion(NamedTuple):
    """A loaded model, a name that equal weights share, and what is searched with it."""

    key: str
    model: LoadedModel
    gallery: Gallery


class Versions:
    """Loads from `store` by way of a folder below `folder`, which is removed at once. For one thread that asks."""

    def __init__(
        self,
        store: ObjectStore,
        folder: Path,
        public_sets: PublicSets,
        *,
        device: str,
        most: int,
        most_pictures: int,
        is_busy: Callable[[str], bool] = lambda _: False,
        wait_seconds: float = 0.5,
    ) -> None:
        """At most `most` are in memory, those that are being loaded too; one whose key `is_busy` is not let go.

        `wait_seconds`: how long a caller waits for one that is being loaded; everybody else's query waits behind.
        """
        self._store, self._folder, self._public_sets, self._device = store, folder, public_sets, device
        self._most, self._most_pictures, self._is_busy, self._wait_seconds = most, most_pictures, is_busy, wait_seconds
        self._versions: OrderedDict[str, HeldVersion] = OrderedDict()
        self._loading: dict[str, Future[HeldVersion]] = {}
        self._galleries: OrderedDict[str, Gallery] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, "loading")

    def open(self, files: Iterable[QueryFile], public_set_sha256: str) -> HeldVersion | None:
        """The version of these files, or None while it is being loaded.

        Raises ArtifactNotFoundError, ArtifactCorruptError, DataError and StorageError, once for each time that it was
        loaded; and TooManyRequestsError where the others that are in memory cannot be let go.
        """
        listed = sorted(files, key=lambda file: file.path)
        weighty = (file for file in listed if file.path.endswith(_MODEL_ENDINGS))
        about = "".join(f"{file.path}\0{file.sha256}\n" for file in weighty)
        key = sha256_of(about.encode())
        name = f"{key} {public_set_sha256}"
        if name not in self._versions:
            loading = self._loading.get(name) or self._begin(name, key, listed, public_set_sha256)
            wait([loading], self._wait_seconds)
            if not loading.done():
                return None
            del self._loading[name]
            self._versions[name] = loading.result()
        self._versions.move_to_end(name)
        return self._versions[name]

    def close(self) -> None:
        """Let no further one be loaded, and wait for the one that is."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _begin(self, name: str, key: str, files: list[QueryFile], public_set: str) -> Future[HeldVersion]:
        self._make_room()

        def load() -> HeldVersion:
            return HeldVersion(key, self._loaded(files), self._gallery(public_set))

        self._loading[name] = self._thread.submit(load)
        return self._loading[name]

    def _make_room(self) -> None:
        for name in [name for name, loading in self._loading.items() if loading.done()]:
            loading = self._loading.pop(name)  # nobody came back for it yet
            if loading.exception() is None:
                self._versions[name] = loading.result()
        while len(self._versions) + len(self._loading) >= self._most:
            idle = next((name for name, kept in self._versions.items() if not self._is_busy(kept.key)), None)
            if idle is None:
                raise TooManyRequestsError(
                    f"the query worker holds {self._most} versions at most, and prepares that many; try again when it"
                    " has, or give it memory for more: FEDAFD_QUERIES_VERSIONS_HELD",
                    retry_after_seconds=_RETRY_SECONDS,
                )
            del self._versions[idle]

    def _gallery(self, sha256: str) -> Gallery:
        """Versions of one public set share it. In the thread that loads."""
        if sha256 not in self._galleries:
            self._galleries[sha256] = Gallery(self._public_sets.open(sha256), self._most_pictures)
            while len(self._galleries) > _GALLERIES:
                self._galleries.popitem(last=False)
        self._galleries.move_to_end(sha256)
        return self._galleries[sha256]

    def _loaded(self, files: Iterable[QueryFile]) -> LoadedModel:
        self._folder.mkdir(parents=True, exist_ok=True)
        # Beside the cache, and not in the system's folder, which may be small and in memory.
        with tempfile.TemporaryDirectory(
            dir=self._folder, prefix="version-", ignore_cleanup_errors=True
        ) as model_folder:
            for file in files:
                target = Path(model_folder) / _checked(file.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(get_verified(self._store, file.key, file.sha256))
            return load_model(model_folder, device=self._device)


def _checked(path: str) -> str:
    plain = PurePosixPath(path)
    if plain.is_absolute() or ".." in plain.parts or "\\" in path or "\0" in path or not plain.parts:
        raise ArtifactCorruptError(f"model file {path!r}: is no plain relative path", key=path)
    return path
