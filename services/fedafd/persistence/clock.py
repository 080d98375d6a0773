"""The one clock by which leases, deadlines and strikes are decided: the database's, where it is a server.

Between two looks at the database time goes on by this process's monotonic clock. So processes on machines whose clocks
differ decide alike, and a machine whose clock is set while a process runs changes nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from time import monotonic

from fedafd.telemetry.logging import get_logger

__all__ = ["SharedClock", "shared_clock", "utc_now"]

_WARN_SECONDS = 2.0
_log = get_logger(__name__)


def _wall() -> datetime:
    return datetime.now(UTC)


class SharedClock:
    """The database's time as this process knows it; this machine's own until it was told."""

    def __init__(self) -> None:
        self._anchor: tuple[datetime, float] | None = None
        self._warned = False
        self.skew_seconds = 0.0
        """How far this machine's clock was ahead of the database's when they were last compared; behind: below 0."""

    def now(self) -> datetime:
        """The present moment, timezone-aware."""
        if self._anchor is None:
            return _wall()
        at, mark = self._anchor
        return at + timedelta(seconds=monotonic() - mark)

    def set(self, database_time: datetime, asked_at: float) -> None:
        """The database said that time in answer to a question of the monotonic moment `asked_at`."""
        mark = (asked_at + monotonic()) / 2
        self._anchor = (database_time, mark)
        self.skew_seconds = (_wall() - self.now()).total_seconds()
        if self.differs and not self._warned:
            _log.warning(
                "clock.differs_from_database",
                seconds_ahead=round(self.skew_seconds, 1),
                reason="the database's time counts; set this machine's clock by NTP",
            )
        self._warned = self.differs

    @property
    def differs(self) -> bool:
        """Whether this machine's clock is so far from the database's that somebody should set it."""
        return abs(self.skew_seconds) > _WARN_SECONDS

    def forget(self) -> None:
        """Go by this machine's clock again."""
        self._anchor, self.skew_seconds = None, 0.0


shared_clock = SharedClock()
"""Of this process."""


def utc_now() -> datetime:
    """The present moment by the clock that all processes share, timezone-aware."""
    return shared_clock.now()
