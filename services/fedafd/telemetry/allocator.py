"""Memory that a service frees goes back to the system.

glibc's malloc gives each thread a heap of its own, up to eight per core, and once a large block has been freed it takes
blocks of that size from these heaps, too. A heap shrinks from its end alone. So a service that moves megabytes in many
threads keeps several times what it ever had in use, for as long as it runs.
"""

from __future__ import annotations

import ctypes

__all__ = ["give_memory_back"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Of mallopt(3)."""
_LARGE = 256 << 10
"""Bytes from which on a block is mapped for itself: a chunk of a site is, what smaller messages consist of is not."""
_HEAPS = 2
_FREE_AT_THE_END = 4 << 20
"""Bytes at the end of a heap that it keeps, so that small blocks that come and go do not ask the system each time."""


def give_memory_back() -> None:
    """Call it before a service starts threads. Does nothing where the C library has no mallopt, as musl and macOS."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for name, value in ((_M_ARENA_MAX, _HEAPS), (_M_MMAP_THRESHOLD, _LARGE), (_M_TRIM_THRESHOLD, _FREE_AT_THE_END)):
        mallopt(ctypes.c_int(name), ctypes.c_int(value))
