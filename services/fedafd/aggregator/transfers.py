"""Which bytes between a client and the store are progress: those that it had not sent, or may not have had, before.

Who sends one chunk, or asks for one artifact, again and again would otherwise hold a round to its deadline. Known to
this process alone: behind several replicas, and after a restart, a client has as much again.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

__all__ = ["Transfers"]

K = TypeVar("K")

_MOST = 20_000
"""Uploads and downloads that are remembered; those that moved longest ago are forgotten first."""
_TIMES = 3
"""So often an artifact may come down in a round: a cache was lost, or a copy was damaged."""


class Transfers:
    """How far each upload got, and how much of each artifact came down."""

    def __init__(self) -> None:
        self._farthest: OrderedDict[str, int] = OrderedDict()
        self._down: OrderedDict[tuple[str, str], int] = OrderedDict()

    def goes_farther(self, upload_id: str, chunk: int) -> bool:
        """Whether this is the upload's farthest chunk so far."""
        farthest = self._farthest.pop(upload_id, -1)
        self._farthest[upload_id] = max(farthest, chunk)
        _trim(self._farthest)
        return chunk > farthest

    def is_needed(self, participation_id: str, sha256: str, size_bytes: int, num_bytes: int) -> bool:
        """Whether the client may still need so many bytes more of an artifact, or of what describes it."""
        total = self._down.pop((participation_id, sha256), 0)
        self._down[participation_id, sha256] = total + num_bytes
        _trim(self._down)
        return total < _TIMES * size_bytes


def _trim(known: OrderedDict[K, int]) -> None:
    while len(known) > _MOST:
        known.popitem(last=False)
