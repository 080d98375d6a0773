"""Files that a process writes for itself on its way to the store: a disk that is full is an outage like the store's."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedafd.domain.errors import StorageFullError, StorageUnavailableError

__all__ = ["on_scratch"]

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def on_scratch(folder: Path) -> Iterator[None]:
    """Within, an OSError is a StorageFullError or a StorageUnavailableError: who called tries again."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFullError(f"scratch folder {folder}: no space left; free some, or set TMPDIR") from error
        raise StorageUnavailableError(f"scratch folder {folder}: {error.strerror or error}") from error
