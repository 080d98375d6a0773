"""What folds, weighings and merges made, kept in memory for the stages of the same round that read it next.

A distiller mostly goes on with its own outputs. From the store it would read each of them again, and hash it, while the
round waits: folds leave as much as the clients sent.
"""

from __future__ import annotations

import threading

from fedafd.domain.kinds import StageKind

__all__ = ["KeptOutputs"]

_MOST_BYTES = 128 << 20
"""Of outputs that are kept. What comes when so much is there is read from the store, as another distiller would."""
_KINDS = (StageKind.FOLD, StageKind.WEIGH, StageKind.MERGE)
"""Whose outputs: of one round, and read soon. A server state is read by a later round as well, and has to be found
damaged then."""


class KeptOutputs:
    """Outputs by hash, of one round at a time. Methods can be called from any thread."""

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        """`most_bytes`: 0 to keep nothing."""
        self._most_bytes, self._lock = most_bytes, threading.Lock()
        self._round: tuple[str, int] | None = None
        self._content: dict[str, bytes] = {}
        self._num_bytes = 0

    def enter(self, federation_id: str, round_number: int, kind: StageKind) -> None:
        """A stage begins. What was kept of another round, or of one that is beyond its merges, is dropped."""
        entered = (federation_id, round_number) if kind in _KINDS else None
        with self._lock:
            if entered != self._round or entered is None:
                self._round, self._num_bytes = entered, 0
                self._content.clear()

    def keep(self, sha256: str, content: bytes) -> None:
        """Keep an output of the round that was entered, if there is room."""
        with self._lock:
            if self._round is None or sha256 in self._content or self._num_bytes + len(content) > self._most_bytes:
                return
            self._content[sha256] = content
            self._num_bytes += len(content)

    def get(self, sha256: str) -> bytes | None:
        """The content of that hash, if it is kept."""
        with self._lock:
            return self._content.get(sha256)
