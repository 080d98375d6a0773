"""The aggregator as it is, which counts statements, transactions and store operations into a file of its process."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

from fedafd.aggregator import server
from fedafd.storage import ObjectStore, StoreSettings, open_store

__all__ = ["COUNTED", "COUNTS_FILE", "read_counts"]

COUNTS_FILE = "FEDAFD_BENCHMARK_COUNTS"
"""Variable that names the file, to which the id of the process is added."""
COUNTED = ("statements", "transactions", "objects")
_FORM = struct.Struct(f"={len(COUNTED)}q")
_OPERATIONS = frozenset(
    {"put", "put_file", "get", "stream", "stat", "list", "delete", "arrived", "append", "arrived_file", "finish", "cut"}
)


def read_counts(path: Path, pids: Iterable[int]) -> dict[str, int]:
    """What these processes counted so far. `path`: what COUNTS_FILE says."""
    counted = [_FORM.unpack(_of_process(path, pid).read_bytes()) for pid in pids]
    return dict(zip(COUNTED, map(sum, zip(*counted, strict=True)), strict=True))


def _of_process(path: Path, pid: int) -> Path:
    return path.with_name(f"{path.name}-{pid}")


class _CountingStore:
    def __init__(self, store: ObjectStore, count: Callable[[int], None]) -> None:
        self._store, self._count = store, count

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in _OPERATIONS:
            return found

        def counted(*given: Any) -> Any:
            self._count(2)
            return found(*given)

        return counted


def _counter(path: Path) -> Callable[[int], None]:
    path.write_bytes(_FORM.pack(*[0] * len(COUNTED)))
    with path.open("r+b") as file:
        places = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")

    def count(place: int) -> None:
        places[place] += 1

    return count


def main() -> int:
    """Run the aggregator, counting."""
    count = _counter(_of_process(Path(os.environ[COUNTS_FILE]), os.getpid()))
    event.listen(Engine, "before_cursor_execute", lambda *_: count(0))
    event.listen(Engine, "begin", lambda *_: count(1))

    def open_counting(settings: StoreSettings) -> Any:
        return _CountingStore(open_store(settings), count)

    server.open_store = open_counting  # type: ignore[attr-defined]
    return server.main()


if __name__ == "__main__":
    raise SystemExit(main())
