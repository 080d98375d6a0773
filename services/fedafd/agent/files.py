"""Writing files so that a crash or a power cut leaves the old content or the new, never half of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedafd.domain.errors import StorageFullError
from fedafd.domain.whole_files import write_whole

__all__ = ["disk_full_is_clear", "sync_file", "sync_folder", "write_atomically"]


def write_atomically(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write the file whole, and so that it outlasts a power cut. Raises StorageFullError when the disk is full."""
    with disk_full_is_clear(path.parent):
        write_whole(path, content, mode=mode, sync=True)
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Make what was written into a file survive a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_full_is_clear(folder: Path) -> Iterator[None]:
    """Turn the operating system's "no space left" into a StorageFullError that names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageFullError(
            f"{folder}: the disk is full; free some space or move state_dir to a larger disk", folder=str(folder)
        ) from error
