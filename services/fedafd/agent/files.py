"""Writing files so that a crash leaves the old content or the new, never half of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedafd.domain.errors import StorageFullError

__all__ = ["disk_full_is_clear", "sync_folder", "write_atomically"]


def write_atomically(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write beside `path`, sync, rename. Raises StorageFullError when the disk is full."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with disk_full_is_clear(path.parent):
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    sync_folder(path.parent)


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
