"""Files of a shared model on their way into the store, piece by piece: a model may be larger than the memory.

Each file is checked and hashed while it arrives beside its place. All are named once the last one is good, so that a
commit that fails leaves nothing, and takes nothing from another commit of the same model.
"""

from __future__ import annotations

import json
import struct
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from pathlib import Path

from safetensors import SafetensorError, safe_open

from fedafd.artifacts.headers import MOST_HEADER_BYTES, distinct_header
from fedafd.artifacts.ref import ArtifactRef
from fedafd.artifacts.stage_io import MODEL_FILE
from fedafd.domain.errors import UploadError
from fedafd.learning.model_sums import SUMS
from fedafd.storage.scratch import on_scratch
from fedafd.storage.store import CHUNK_BYTES, ObjectStore, put_all

__all__ = ["Content", "store_model_files"]

_ENDINGS = (".safetensors", ".json", ".txt", ".md")
_MOST_FILES = 1000
_MOST_JSON_BYTES = 32 << 20
"""Of one file. What Python makes of it takes several times as much: one at a time is read in a process."""
_MOST_SMALL_BYTES = 4 << 20
"""Of small files altogether, which are stored together at the end; those beyond it arrive one by one."""
_LENGTH = struct.Struct("<Q")
_reading_json = threading.Lock()

Content = Iterator[bytes]
"""A file's content, in pieces of any length."""


def store_model_files(
    store: ObjectStore,
    files: Iterable[tuple[str, Content]],
    *,
    arriving: Callable[[str], str],
    target: Callable[[str], str],
    scratch: Path,
) -> dict[str, ArtifactRef]:
    """Check and store them; by path where each lies.

    `arriving` gives the key of what arrives by a name, `target` a file's own by its path; `scratch` is a folder for
    headers, made if needed. Raises UploadError for a file that no model has, StorageFullError for a full
    disk of the store or of `scratch`, and what reading `files` raises.
    """
    attempt = uuid.uuid4().hex
    entries: dict[str, ArtifactRef] = {}
    small: dict[str, bytes] = {}
    arrived: dict[str, str] = {}
    try:
        for path, content in files:
            if len(entries) == _MOST_FILES:
                raise UploadError(f"personalized model: more than {_MOST_FILES} files")
            key, name = target(path), arriving(f"{attempt}-{len(entries)}")
            file = _File(path, scratch)
            with _Arriving(store, name) as way:
                for piece in _cut(content):
                    file.take(piece)
                    way.take(piece)
                file.check()
                room = _MOST_SMALL_BYTES - sum(map(len, small.values()))
                if not way.begun and (way.size_bytes <= room or not way.size_bytes):
                    small[key] = way.content()
                else:
                    way.end()
                    arrived[name] = key
            entries[path] = {
                "sha256": file.hash.hexdigest(),
                "size_bytes": way.size_bytes,
                "purpose": MODEL_FILE,
                "key": key,
            }
        for name, key in arrived.items():
            store.finish(name, key)
        put_all(store, small)
    finally:
        for name in arrived:
            store.cut(name)
    return entries


def _cut(content: Content) -> Iterator[bytes]:
    for piece in content:
        for start in range(0, len(piece), CHUNK_BYTES):
            yield piece[start : start + CHUNK_BYTES]


class _Arriving:
    """An object that grows in the store, in pieces that it takes; forgotten if the block ends by an error."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store, self._key = store, key
        self._least = max(store.append_bytes, CHUNK_BYTES)
        self._waiting = bytearray()
        self._stored = 0
        self.begun = False
        """Whether something may be in the store."""

    def __enter__(self) -> _Arriving:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self.begun:
            self._store.cut(self._key)

    @property
    def size_bytes(self) -> int:
        return self._stored + len(self._waiting)

    def take(self, piece: bytes) -> None:
        if len(self._waiting) >= self._least:  # the last piece is never empty
            self._append()
        self._waiting += piece

    def content(self) -> bytes:
        """Of an object that has not begun."""
        return bytes(self._waiting)

    def end(self) -> None:
        """All of it is in the store."""
        self._append()

    def _append(self) -> None:
        self.begun = True
        self._store.append(self._key, self._stored, bytes(self._waiting))
        self._stored += len(self._waiting)
        self._waiting.clear()


class _File:
    """What has to be known of a file: its hash, and that it is what its name says."""

    def __init__(self, path: str, scratch: Path) -> None:
        """Raises UploadError for a name that no file of a model has."""
        if not path.endswith(_ENDINGS) and path != SUMS:
            raise UploadError(f"personalized model: a file is not one of {', '.join(_ENDINGS)}")
        self._path, self._ending, self._scratch = path, path.rpartition(".")[2], scratch
        self.hash = sha256()
        self._size_bytes = 0
        self._kept = bytearray()
        # Of JSON one byte more than may be; of tensors the header, whose length the first bytes say.
        self._wanted = {"json": _MOST_JSON_BYTES + 1, "safetensors": _LENGTH.size}.get(self._ending, 0)

    def take(self, piece: bytes) -> None:
        """Raises UploadError for a file that is longer than may be."""
        self.hash.update(piece)
        self._size_bytes += len(piece)
        kept = self._keep(piece)
        if self._ending == "safetensors" and self._wanted == len(self._kept) == _LENGTH.size:
            self._wanted += min(_LENGTH.unpack(self._kept)[0], MOST_HEADER_BYTES + 1)
            self._keep(piece[kept:])
        if len(self._kept) > (_MOST_JSON_BYTES if self._ending == "json" else _LENGTH.size + MOST_HEADER_BYTES):
            raise UploadError(f"personalized model: {self._path!r} has more to read at once than an aggregator reads")

    def check(self) -> None:
        """Raises UploadError unless the content is readable, StorageFullError for a full disk here."""
        try:
            if self._ending == "json":
                with _reading_json:
                    json.loads(bytes(self._kept))
            elif self._ending == "safetensors":
                self._check_header()
        except (ValueError, RecursionError, SafetensorError) as error:
            raise UploadError(f"personalized model: a {self._ending} file is not readable") from error

    def _keep(self, piece: bytes) -> int:
        """Keep what is wanted of it; how many bytes that is."""
        length = min(len(piece), self._wanted - len(self._kept))
        self._kept += piece[:length]
        return length

    def _check_header(self) -> None:
        """By the library, on a file of the same length that has the header alone and takes no room for the rest."""
        file = self._scratch / "header.safetensors"
        with on_scratch(self._scratch):
            self._scratch.mkdir(mode=0o700, exist_ok=True)
            with file.open("wb") as sparse:
                sparse.write(self._kept)
                sparse.truncate(self._size_bytes)
        with safe_open(file, framework="numpy"):
            pass
        file.unlink()
        distinct_header(bytes(self._kept[_LENGTH.size :]))
