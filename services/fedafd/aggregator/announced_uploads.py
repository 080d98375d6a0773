"""Uploads that were announced, remembered while their chunks come: what was announced never changes."""

from __future__ import annotations

from collections import OrderedDict

from fedafd.persistence.models import UploadRow

__all__ = ["AnnouncedUploads"]

_MOST_CHUNKS = 200_000
"""Of all that are remembered: about 30 MB of hashes."""


class AnnouncedUploads:
    """Rows by id, the latest ones."""

    def __init__(self) -> None:
        self._rows: OrderedDict[str, UploadRow] = OrderedDict()
        self._chunks = 0

    def keep(self, row: UploadRow) -> None:
        """Remember what was announced."""
        if row.id in self._rows:
            return
        self._rows[row.id] = row
        self._chunks += len(row.chunk_sha256)
        while self._chunks > _MOST_CHUNKS and len(self._rows) > 1:
            _, oldest = self._rows.popitem(last=False)
            self._chunks -= len(oldest.chunk_sha256)

    def find(self, upload_id: str, client_id: str) -> UploadRow | None:
        """The upload, if it is remembered and the client's own."""
        row = self._rows.get(upload_id)
        return row if row is not None and row.client_id == client_id else None

    def forget(self, upload_id: str) -> None:
        """It was delivered."""
        row = self._rows.pop(upload_id, None)
        self._chunks -= 0 if row is None else len(row.chunk_sha256)
