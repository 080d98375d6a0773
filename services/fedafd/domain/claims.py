"""A folder for one process at a time: a lock on a file, which the system lets go of however the process ends.

By flock itself and not by filelock, which removes the file when it lets go, falls back to a lock that outlives a killed
process where a file system knows no flock, and would be one more package of a base installation.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedafd.domain.errors import ConflictError

__all__ = ["claim", "claimed", "in_turn", "is_claimed"]


def claim(lock: Path, taken: str) -> int:
    """Lock the file `lock`, made if it is not there, until the descriptor returned is closed.

    Raises ConflictError with the words `taken` while another process, or an earlier claim of this one, holds it.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ConflictError(taken) from None
    return descriptor


@contextmanager
def claimed(lock: Path, taken: str) -> Iterator[None]:
    """`claim` for a block. Raises ConflictError."""
    descriptor = claim(lock, taken)
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def in_turn(lock: Path) -> Iterator[None]:
    """A block that one process at a time is in; the others wait."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_claimed(lock: Path) -> bool:
    """Whether a process holds the lock now."""
    if not lock.exists():
        return False
    try:
        with claimed(lock, ""):
            return False
    except (ConflictError, OSError):
        return True
