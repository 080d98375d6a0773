"""Whether a store takes writes: one that answers and is full looks well to whoever only reads."""

from __future__ import annotations

import threading
import uuid
from time import monotonic

from fedafd.domain.errors import StorageError
from fedafd.storage.store import ObjectStore

__all__ = ["WriteProbe"]

_BYTES = 64 << 10
"""As long as the smallest chunk of an upload: where this does not fit, nothing does."""


class WriteProbe:
    """Writes a small object and removes it, at most once in `seconds`; in between the last answer holds.

    `below`: a prefix that this process's access key may write and delete under (fedafd.storage.provision).
    """

    def __init__(self, store: ObjectStore, *, below: str, seconds: float = 10.0) -> None:
        self._store, self._seconds = store, seconds
        self._key = f"{below}write-probe/{uuid.uuid4().hex}"
        self._lock = threading.Lock()
        self._looked: float | None = None
        self._error: StorageError | None = None

    def check(self) -> None:
        """Raise StorageError, as `put` does, unless the store takes writes. Blocking."""
        # Who comes while another looks takes the last answer: a store that hangs must not hold a thread for each.
        if self._lock.acquire(blocking=False):
            try:
                if self._looked is None or monotonic() - self._looked >= self._seconds:
                    self._error = self._look()
                    self._looked = monotonic()
            finally:
                self._lock.release()
        error = self._error
        if error is not None:
            raise type(error)(f"the store refuses writes: {error}", **error.data)

    def _look(self) -> StorageError | None:
        try:
            self._store.put(self._key, bytes(_BYTES))
            self._store.delete(self._key)
        except StorageError as error:
            return error
        return None
