"""Parts of blobs that sites send to the object store themselves: the forms for it, and how much has come of them.

A form is good for one object, of exactly one length, for a quarter of an hour. What arrives by it counts no more than
what comes through this process: the commit reads all of it, and checks its hash and its tensors.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from datetime import timedelta

from fedafd.persistence.models import UploadRow
from fedafd.storage import FormStore, UploadForm

__all__ = ["DirectUploads"]

_LIFETIME = timedelta(minutes=15)
_PART_BYTES = 16 << 20
_PARTS_AT_ONCE = 4
"""Parts that a site sends between two answers: few, so that it reports progress and hears that its round is over."""
_MOST_UPLOADS = 10_000
_MOST_SIGNED_TIMES = 2
"""So often as many bytes as a blob has: a part that did not come has a form once more."""


class DirectUploads:
    """Forms of one store, as sites reach it; none without one."""

    def __init__(self, store: FormStore | None = None) -> None:
        self._store = store
        self._arrived: OrderedDict[str, int] = OrderedDict()
        self._signed: OrderedDict[str, int] = OrderedDict()
        """Bytes that an upload had forms for. Parts may overlap in the store, which keeps them all."""

    def forms(self, key: str, upload: UploadRow, missing: Sequence[int]) -> list[UploadForm]:
        """For the first of the missing chunks of the object that arrives under `key`."""
        if self._store is None or not missing:
            return []
        length = -(-_PART_BYTES // upload.chunk_size_bytes) * upload.chunk_size_bytes
        begins = range(missing[0] * upload.chunk_size_bytes, upload.size_bytes, length)[:_PARTS_AT_ONCE]
        parts = [(begin, min(length, upload.size_bytes - begin)) for begin in begins]
        signed = _put_last(self._signed, upload.id, self._signed.get(upload.id, 0) + sum(size for _, size in parts))
        if signed > _MOST_SIGNED_TIMES * upload.size_bytes + _PARTS_AT_ONCE * length:
            return []  # the rest goes the usual way
        # Signed here, by the key at hand: the store is not asked.
        return [self._store.append_form(key, begin, size, _LIFETIME) for begin, size in parts]

    def moved(self, upload_id: str, arrived_bytes: int) -> int:
        """Bytes that have arrived since this was asked before, as far as this process knows."""
        before = self._arrived.get(upload_id, arrived_bytes)
        return max(0, _put_last(self._arrived, upload_id, arrived_bytes) - before)


def _put_last(numbers: OrderedDict[str, int], name: str, number: int) -> int:
    """Note a number as the latest one; the earliest are forgotten."""
    numbers[name] = number
    numbers.move_to_end(name)
    while len(numbers) > _MOST_UPLOADS:
        numbers.popitem(last=False)
    return number
