"""Announced blobs become rows, those that are announced at the same time in one transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from fedafd.aggregator.together import Guard, Together
from fedafd.domain.errors import UploadError
from fedafd.persistence.artifact_repository import uploads_of
from fedafd.persistence.database import Database
from fedafd.persistence.models import UploadRow

__all__ = ["Announced", "Announcement", "Announcements"]

_MOST_UPLOADS = 16
"""Of one client in one round: a few tries of each purpose, and no filling of the store."""
_MOST_TOGETHER = 50


@dataclass(frozen=True, kw_only=True, eq=False)
class Announcement:
    """A blob that a client means to send in a round."""

    round_id: str
    client_id: str
    purpose: str
    sha256: str
    size_bytes: int
    chunk_size_bytes: int
    chunk_sha256: tuple[str, ...]
    quota_bytes: int
    """What the client may announce in the round altogether."""


class Announced(NamedTuple):
    """A blob's row, and whether it was not there before: then nothing of the blob can have arrived."""

    row: UploadRow
    is_new: bool


class Announcements:
    """Takes announcements down, each blob once."""

    def __init__(self, database: Database, guard: Guard) -> None:
        self._database = database
        self._together: Together[Announcement, Announced] = Together(self._take_all, most=_MOST_TOGETHER, guard=guard)

    async def take(self, announcement: Announcement) -> Announced:
        """The blob's row, new or of an earlier announcement. Raises UploadError for what the client may not send."""
        return await self._together.get(announcement)

    async def _take_all(self, announcements: Sequence[Announcement]) -> Mapping[Announcement, Announced | Exception]:
        async with self._database.transaction() as session:
            return await _take(session, announcements)


async def _take(
    session: AsyncSession, announcements: Sequence[Announcement]
) -> dict[Announcement, Announced | Exception]:
    uploads: defaultdict[tuple[str, str], list[UploadRow]] = defaultdict(list)
    rounds = {announcement.round_id for announcement in announcements}
    clients = {announcement.client_id for announcement in announcements}
    for row in await uploads_of(session, rounds, clients):
        uploads[row.round_id, row.client_id].append(row)
    taken: dict[Announcement, Announced | Exception] = {}
    for announcement in announcements:
        mine = uploads[announcement.round_id, announcement.client_id]
        try:
            row = _same(announcement, mine) or _new(announcement, mine)
        except UploadError as error:
            taken[announcement] = error
            continue
        taken[announcement] = Announced(row, row not in mine)
        if row not in mine:
            session.add(row)
            mine.append(row)
    await session.flush()
    return taken


def _same(announcement: Announcement, mine: Sequence[UploadRow]) -> UploadRow | None:
    """The row of the same blob. Raises UploadError if it was cut otherwise."""
    for row in mine:
        if (row.sha256, row.purpose) == (announcement.sha256, announcement.purpose):
            if (row.chunk_size_bytes, tuple(row.chunk_sha256)) != (
                announcement.chunk_size_bytes,
                announcement.chunk_sha256,
            ):
                raise UploadError("this blob was announced before with other chunks; announce it as before")
            return row
    return None


def _new(announcement: Announcement, mine: Sequence[UploadRow]) -> UploadRow:
    """A row for it, beside the client's others. Raises UploadError for one blob, or one byte, too many."""
    if len(mine) >= _MOST_UPLOADS:
        raise UploadError(f"{_MOST_UPLOADS} blobs were announced in this round already; deliver or leave it")
    size, quota = sum(row.size_bytes for row in mine), announcement.quota_bytes
    if size + announcement.size_bytes > quota:
        raise UploadError(
            f"{size} bytes were announced in this round already, and {announcement.size_bytes} more are above the"
            f" {quota} bytes of a client; deliver what is there, or leave the round"
        )
    return UploadRow(
        round_id=announcement.round_id,
        client_id=announcement.client_id,
        purpose=announcement.purpose,
        sha256=announcement.sha256,
        size_bytes=announcement.size_bytes,
        chunk_size_bytes=announcement.chunk_size_bytes,
        chunk_sha256=list(announcement.chunk_sha256),
    )
