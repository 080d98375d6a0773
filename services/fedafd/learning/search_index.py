"""An index of pictures or texts by what a model makes of them: kept in one file, brought up to date at each use.

A row belongs to the SHA-256 of its content and to the model's, so it is never another picture's or model's row. Whether
a file must be hashed again is decided by its size, inode and both of its times, of which nobody can set the second; a
file changed within two seconds of the last look is hashed anyhow. Losing the file loses nothing.

Shape legend: n entries, D embedding dimension.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fedafd.datasets.pixels import READER_VERSION
from fedafd.domain.errors import DataError
from fedafd.domain.hashing import file_sha256

__all__ = ["Hit", "SearchIndex", "model_key", "nearest"]

_SETTLED_NANOSECONDS = 2_000_000_000
_FORMAT = 1
_MODEL_ENDINGS = {".json", ".safetensors"}

Embed = Callable[[Sequence[Path], Callable[[int, DataError], None]], Iterator[tuple[int, NDArray[np.float32]]]]
"""Place and row of each file that can be read; the second argument is told the others."""


class Hit(NamedTuple):
    """One thing found, and its likeness to the query, -1 to 1."""

    name: str
    likeness: float


class SearchIndex:
    """Rows by content, and what is known of files, in `file`; made anew if that is damaged or of another model."""

    def __init__(self, file: Path, key: str, dim: int) -> None:
        self._file, self._key, self._dim = file, key, dim
        self._rows: dict[str, NDArray[np.float32]] = {}
        self._seen: dict[str, list[int | str]] = {}
        self.added, self.changed = 0, False
        """Rows that were made since the index was opened; and whether `save` has something to write."""
        with suppress(OSError, ValueError, KeyError, TypeError, SafetensorError):
            self._load()

    def update(
        self, paths: Sequence[Path], embed: Embed, on_bad: Callable[[Path, DataError], None]
    ) -> tuple[list[Path], NDArray[np.float32]]:
        """The readable ones of `paths` and their rows [n, D]; only what is new or changed is read and embedded."""
        hashes: dict[Path, str] = {}
        missing: dict[str, Path] = {}
        seen: dict[str, list[int | str]] = {}
        for path in paths:
            try:
                facts = self._facts(path)
            except OSError as error:
                on_bad(path, DataError(f"{path}: cannot be read: {error.strerror}"))
                continue
            seen[str(path)] = facts
            hashes[path] = str(facts[-1])
            if hashes[path] not in self._rows:
                missing.setdefault(hashes[path], path)
        self.changed |= seen != self._seen
        self._seen = seen
        self._embed(list(missing.items()), embed, hashes, on_bad)
        kept = [path for path in paths if path in hashes]
        self._forget(set(hashes.values()))
        return kept, self._matrix([hashes[path] for path in kept])

    def save(self) -> None:
        """Write the file beside and rename it, if anything changed. Raises OSError where that cannot be."""
        if not self.changed:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        part = self._file.with_name(f".{self._file.name}.{os.getpid()}.part")
        about = {"format": _FORMAT, "key": self._key, "contents": list(self._rows), "seen": self._seen}
        try:
            save_file({"rows": self._matrix(list(self._rows))}, part, metadata={"index": json.dumps(about)})
            part.chmod(0o600)
            part.replace(self._file)
        finally:
            part.unlink(missing_ok=True)
        self.changed = False

    def _load(self) -> None:
        with safe_open(self._file, framework="numpy") as file:
            about = json.loads((file.metadata() or {})["index"])
            rows = file.get_tensor("rows")
        if (about["format"], about["key"]) != (_FORMAT, self._key) or rows.shape != (len(about["contents"]), self._dim):
            return
        seen = {str(path): list(facts) for path, facts in about["seen"].items()}
        if all(len(facts) == 6 for facts in seen.values()) and np.isfinite(rows).all():
            self._rows, self._seen = dict(zip(map(str, about["contents"]), rows, strict=True)), seen

    def _facts(self, path: Path) -> list[int | str]:
        """Size, inode, time of change, time of status change, time of this look, and SHA-256 of the content."""
        looked, stat = time.time_ns(), path.stat()
        if not S_ISREG(stat.st_mode):
            raise OSError(errno.EINVAL, "is no file")
        now: list[int | str] = [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]
        old = self._seen.get(str(path))
        if old is not None and old[:4] == now and stat.st_ctime_ns + _SETTLED_NANOSECONDS < int(old[4]):
            return old
        return [*now, looked, file_sha256(path)]

    def _embed(
        self,
        missing: list[tuple[str, Path]],
        embed: Embed,
        hashes: dict[Path, str],
        on_bad: Callable[[Path, DataError], None],
    ) -> None:
        bad: set[str] = set()

        def refuse(position: int, error: DataError) -> None:
            content, first = missing[position]
            bad.add(content)
            on_bad(first, error)

        for position, row in embed([path for _, path in missing], refuse):
            self._rows[missing[position][0]] = row
            self.added += 1
            self.changed = True
        for path in [path for path, content in hashes.items() if content in bad]:
            del hashes[path]

    def _forget(self, contents: set[str]) -> None:
        gone = [content for content in self._rows if content not in contents]
        for content in gone:
            del self._rows[content]
            self.changed = True

    def _matrix(self, contents: Sequence[str]) -> NDArray[np.float32]:
        if not contents:
            return np.zeros((0, self._dim), dtype=np.float32)
        return np.stack([self._rows[content] for content in contents])


def model_key(folder: Path, window: tuple[float, float] | None) -> str:
    """Names a model and how pictures are read for it: equal keys mean equal rows."""
    digest = hashlib.sha256(json.dumps([READER_VERSION, PIL.__version__, window]).encode())
    for path in sorted(folder.resolve().rglob("*")):
        if path.suffix in _MODEL_ENDINGS and path.is_file():
            content = file_sha256(path)
            digest.update(f"{path.relative_to(folder.resolve()).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def nearest(query_D: NDArray[np.float32], names: Sequence[str], rows_ND: NDArray[np.float32], top_k: int) -> list[Hit]:
    """The `top_k` best matches, best first; ties in the order given."""
    likeness_N = rows_ND @ query_D
    best = np.argsort(-likeness_N, kind="stable")[:top_k]
    return [Hit(names[i], float(likeness_N[i])) for i in best]
