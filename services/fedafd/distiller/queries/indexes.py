"""Embeddings of a public set by a version: made once in a thread beside the answers, kept in files within a limit.

Shape legend: n entries, D embedding dimension.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fedafd.datasets.pixels import trim_folder
from fedafd.domain.errors import TooManyRequestsError
from fedafd.telemetry.logging import get_logger

__all__ = ["Index", "Indexes", "Progress"]

_MOST_INDEXES = 6
_MOST_MAKING = 4
"""Being made or waiting for that."""
_RETRY_SECONDS = 10
_log = get_logger(__name__)


class Index(NamedTuple):
    """Rows [n, D], and the number of the entry that each belongs to: one that cannot be read has none."""

    entries: NDArray[np.int64]
    rows: NDArray[np.float32]


class Progress(NamedTuple):
    """Embeddings that are made, of those that are needed."""

    done: int
    total: int


class _StoppedError(Exception):
    """The process ends."""


class _Making:
    def __init__(self, total: int, owner: str) -> None:
        self.done, self.total, self.owner = 0, total, owner
        self.future: Future[Index] = Future()


Make = Callable[[Callable[[], None]], Index]
"""Makes an index, and calls its argument for each embedding."""


class Indexes:
    """Indexes by name below `folder`, of at most `limit_bytes`."""

    def __init__(self, folder: Path, limit_bytes: int, *, wait_seconds: float = 0.5) -> None:
        """`wait_seconds`: how long a caller waits for one that is being built before it gets the progress instead."""
        self._folder, self._limit_bytes, self._wait_seconds = folder, limit_bytes, wait_seconds
        self._indexes: OrderedDict[str, Index] = OrderedDict()
        self._making: dict[str, _Making] = {}
        self._thread = ThreadPoolExecutor(1, "indexing")
        self._stops = False

    def find(self, name: str, total: int, make: Make, *, owner: str = "") -> Index | Progress:
        """The index of that name, made by `make` out of `total` entries if there is none yet, for `owner`.

        Raises what `make` raised, once; and TooManyRequestsError where several others are being made.
        """
        index = self._indexes.get(name) or (None if name in self._making else self._loaded(name))
        if index is None:
            making = self._making.get(name) or self._begin(name, total, make, owner)
            wait([making.future], self._wait_seconds)
            if not making.future.done():
                return Progress(making.done, making.total)
            del self._making[name]
            index = making.future.result()
        self._indexes[name] = index
        self._indexes.move_to_end(name)
        while len(self._indexes) > _MOST_INDEXES:
            self._indexes.popitem(last=False)
        return index

    def close(self) -> None:
        """Stop what is being made."""
        self._stops = True
        self._thread.shutdown(wait=True, cancel_futures=True)

    def is_making(self, owner: str) -> bool:
        """Whether an index of `owner` is being made, or waits for that."""
        return any(making.owner == owner and not making.future.done() for making in self._making.values())

    def _begin(self, name: str, total: int, make: Make, owner: str) -> _Making:
        for other in [other_name for other_name, making in self._making.items() if making.future.done()]:
            del self._making[other]  # nobody came back for it; its file is there
        if len(self._making) >= _MOST_MAKING:
            raise TooManyRequestsError(
                f"{_MOST_MAKING} sets of embeddings are being made already; try again when they are",
                retry_after_seconds=_RETRY_SECONDS,
            )
        making = _Making(total, owner)

        def advance() -> None:
            making.done += 1
            if self._stops:
                raise _StoppedError

        def run() -> Index:
            index = make(advance)
            self._save(name, index)
            return index

        making.future = self._thread.submit(run)
        self._making[name] = making
        return making

    def _loaded(self, name: str) -> Index | None:
        path = self._path(name)
        try:
            with safe_open(path, framework="numpy") as file:
                index = Index(file.get_tensor("entries"), file.get_tensor("rows"))
        except (OSError, SafetensorError):
            return None
        if index.rows.shape[0] != len(index.entries) or not np.isfinite(index.rows).all():
            return None
        with suppress(OSError):
            os.utime(path)
        return index

    def _save(self, name: str, index: Index) -> None:
        path = self._path(name)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            save_file({"entries": index.entries, "rows": index.rows}, part)
            part.replace(path)
            trim_folder(self._folder, self._limit_bytes, keep={path.name})
        except OSError as error:
            part.unlink(missing_ok=True)
            _log.warning("queries.index_not_kept", reason=error.strerror or str(error), folder=str(self._folder))

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"
