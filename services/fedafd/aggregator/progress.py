"""Progress and bytes of participations: kept in memory, written now and then for all clients in one transaction.

Each report would otherwise be a transaction. What is lost when the process dies is half a second of progress, which is
nothing: the next report brings it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from fedafd.aggregator.wakeups import Wakeups
from fedafd.domain.errors import DatabaseUnavailableError
from fedafd.domain.leaving import Activity, ActivityKind
from fedafd.persistence.advances import excused_since
from fedafd.persistence.database import Database
from fedafd.persistence.models import utc_now
from fedafd.persistence.participation_repository import write_progress
from fedafd.telemetry.logging import get_logger

__all__ = ["ProgressBook", "Report", "Unwritten"]

_BEFORE_TRAINING = (ActivityKind.WAITING, ActivityKind.DOWNLOADING, ActivityKind.WAITING_FOR_DISK)
_MOST_WORK = 2**62
"""More is no count, and no number of the database."""
_LAST_WRITE_SECONDS = 3.0
"""How long the end of the process waits for a write that is under way."""
_log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a client told of its part in a round."""

    fraction: float
    activity: Activity | None
    work_done: int
    """As its process counts; 0: it does not."""
    session: str
    """Of the process."""


@dataclass
class _Entry:
    federation_id: str
    at: datetime = field(default_factory=utc_now)
    report: Report | None = None
    moves: bool = False
    """Bytes moved that count as progress."""
    trains_at: datetime | None = None
    sends_at: datetime | None = None
    up: int = 0
    down: int = 0


class Unwritten(NamedTuple):
    """What was noted of a part and not written yet."""

    up: int = 0
    down: int = 0
    trains_at: datetime | None = None
    """When it began to train, where that is news."""
    sends_at: datetime | None = None


class ProgressBook:
    """Notes at once, writes `seconds` later. While the database is away it keeps what was noted, and tries again."""

    def __init__(self, database: Database, wakeups: Wakeups, *, seconds: float = 0.5) -> None:
        self._database = database
        self._wakeups = wakeups
        self._seconds = seconds
        self._noted: dict[str, _Entry] = {}
        self._writing: asyncio.Task[None] | None = None
        self._one_write = asyncio.Lock()

    def step(self, federation_id: str, participation_id: str, report: Report) -> None:
        """The client told how far it is. Whether that is progress is decided when it is written."""
        entry, activity = self._note(federation_id, participation_id), report.activity
        entry.report = report
        if activity is not None and activity.kind not in _BEFORE_TRAINING:
            entry.trains_at = entry.trains_at or entry.at

    def moved(
        self, federation_id: str, participation_id: str, *, up: int = 0, down: int = 0, counts: bool = True
    ) -> None:
        """Bytes of artifacts moved, none where the store is what it waits for. `counts`: that is progress."""
        entry = self._note(federation_id, participation_id)
        entry.moves = entry.moves or counts
        entry.up += up
        entry.down += down
        if up:
            entry.sends_at = entry.sends_at or entry.at

    def take(self, participation_id: str) -> Unwritten:
        """What was not written yet; the caller writes it."""
        entry = self._noted.pop(participation_id, None)
        return Unwritten() if entry is None else Unwritten(entry.up, entry.down, entry.trains_at, entry.sends_at)

    async def flush(self) -> None:
        """Write what was noted, after what is being written. Raises DatabaseUnavailableError, and keeps it then."""
        async with self._one_write:
            noted, self._noted = self._noted, {}
            if noted:
                await self._write_all(noted)

    async def _write_all(self, noted: Mapping[str, _Entry]) -> None:
        try:
            async with self._database.transaction() as session:
                await write_progress(session, [_row(key, entry) for key, entry in sorted(noted.items())])
        except DatabaseUnavailableError:
            for key, entry in noted.items():
                newer = self._noted.setdefault(key, entry)
                if newer is not entry:
                    newer.up, newer.down = newer.up + entry.up, newer.down + entry.down
                    newer.report = newer.report or entry.report
                    newer.moves = newer.moves or entry.moves
                    newer.trains_at = entry.trains_at or newer.trains_at
                    newer.sends_at = entry.sends_at or newer.sends_at
            raise
        for federation_id in {entry.federation_id for entry in noted.values()}:
            self._wakeups.changed(federation_id, clients=(), rounds=False)

    async def close(self) -> None:
        """Write the rest."""
        if self._writing is not None:
            # Not in the middle of a transaction, unless the database answers no more.
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WRITE_SECONDS), self._one_write:
                    self._writing.cancel()
            self._writing.cancel()
            await asyncio.wait((self._writing,))
        try:
            await self.flush()
        except DatabaseUnavailableError as error:
            _log.warning("progress.lost", reason=str(error))

    def _note(self, federation_id: str, participation_id: str) -> _Entry:
        entry = self._noted.setdefault(participation_id, _Entry(federation_id))
        entry.at = utc_now()
        if self._writing is None or self._writing.done():
            self._writing = asyncio.ensure_future(self._write())
        return entry

    async def _write(self) -> None:
        while self._noted:
            await asyncio.sleep(self._seconds)
            try:
                await self.flush()
            except DatabaseUnavailableError as error:
                _log.warning("progress.waits", reason=str(error), participations=len(self._noted))
            except Exception as error:
                _log.exception("progress.lost", reason=str(error))


def _row(participation_id: str, entry: _Entry) -> dict[str, Any]:
    report = entry.report or Report(fraction=0.0, activity=None, work_done=0, session="")
    work = min(report.work_done, _MOST_WORK)
    return {
        "participation_id": participation_id,
        "at": entry.at,
        "moves": entry.moves,
        "stepped": entry.report is not None,
        "fraction": min(max(report.fraction, 0.0), 1.0),
        "work": work,
        "own": report.session,
        "excused_since": excused_since(entry.at, report.activity, work),
        "activity_now": str(report.activity or "")[:200],
        "trains_at": entry.trains_at,
        "sends_at": entry.sends_at,
        "up": entry.up,
        "down": entry.down,
    }
