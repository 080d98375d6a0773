"""A folder for one process at a time: a lock on a file, which the system lets go of however the process ends.

filelock's other kind, a file that is there or not, is never taken: it outlives a process that is killed.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fedafd.domain.errors import ConfigurationError, ConflictError

__all__ = ["claim", "claimed", "in_turn", "is_claimed"]

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def claim(lock: Path, taken: str) -> FileLock:
    """Lock the file `lock`, made if it is not there, until the lock returned is released or its process ends.

    Raises ConflictError with the words `taken` while another process, or an earlier claim of this one, holds it, and
    ConfigurationError where the file system has no locks.
    """
    file_lock = _lock(lock)
    with _clear_lock_errors(lock):
        try:
            file_lock.acquire(timeout=0)
        except Timeout:
            raise ConflictError(taken) from None
    return file_lock


@contextmanager
def claimed(lock: Path, taken: str) -> Iterator[None]:
    """`claim` for a block. Raises as it does."""
    file_lock = claim(lock, taken)
    try:
        yield
    finally:
        file_lock.release()


@contextmanager
def in_turn(lock: Path) -> Iterator[None]:
    """A block that one process at a time is in; the others wait. Raises ConfigurationError as claim."""
    file_lock = _lock(lock)
    with _clear_lock_errors(lock):
        file_lock.acquire()
    try:
        yield
    finally:
        file_lock.release()


def is_claimed(lock: Path) -> bool:
    """Whether a process holds the lock now."""
    if not lock.exists():
        return False
    try:
        with claimed(lock, ""):
            return False
    except ConfigurationError:  # where there are no locks, nobody holds one
        return False
    except (ConflictError, OSError):
        return True


def _lock(lock: Path) -> FileLock:
    return FileLock(lock, mode=0o600, thread_local=False, fallback_to_soft=False)


@contextmanager
def _clear_lock_errors(lock: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise ConfigurationError(
            f"{lock.parent}: its file system has no file locks ({error.strerror}); use a folder on one that has"
        ) from error
