"""The site's data for the page: the last look at every sample, a fresh one when asked for, and the contact sheet."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fedafd.agent.contact_sheet import contact_sheet
from fedafd.agent.own_data import KeptLook, kept_look, look_at, stamp_of
from fedafd.agent.ui.jobs import Job, JobView
from fedafd.datasets import ClientData, load_client_data
from fedafd.datasets.report import Progress
from fedafd.domain.config import AgentConfig
from fedafd.domain.kinds import ClientKind

__all__ = ["LookView", "OwnLook"]

_STAMP_SECONDS = 20.0
"""Files are looked at no more often than this to tell whether they changed."""


@dataclass(frozen=True)
class LookView:
    """What the page shows of the data."""

    report: Mapping[str, Any] | None
    """DataReport.to_dict's; None where nobody has looked yet."""
    at: datetime | None
    changed: bool
    """Whether files or settings are others than at that look."""
    has_pictures: bool
    job: JobView


class OwnLook:
    """Reads the data; writes nothing. A look of the page's own is forgotten when its server ends."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._job: Job[KeptLook] = Job("look at the data")
        self._stamp: tuple[float, str] | None = None
        self._loaded: tuple[str, ClientData] | None = None
        self._sheet: tuple[str, bytes | None] | None = None
        self._lock = threading.Lock()

    def view(self) -> LookView:
        """The newest look, the agent's or the page's own. Raises OSError where the files cannot be listed."""
        kept = max(
            (look for look in (kept_look(self._config.state_dir), self._job.result) if look is not None),
            key=lambda look: look.at,
            default=None,
        )
        has_pictures = self._config.kind is not ClientKind.TEXT
        if kept is None:
            return LookView(None, None, False, has_pictures, self._job.view())
        return LookView(kept.report, kept.at, kept.stamp != self.stamp(), has_pictures, self._job.view())

    def start(self) -> bool:
        """Look at every sample; False if that is being done already."""
        return self._job.start(self._look)

    def wait(self, seconds: float) -> None:
        """Until a look that is being taken has ended, but not longer."""
        self._job.wait(seconds)

    def stop(self) -> None:
        """End a look that is being taken."""
        self._job.stop()

    def stamp(self) -> str:
        """Changes with the files and the settings; empty for data that have no files."""
        with self._lock:
            now = time.monotonic()
            if self._stamp is None or now - self._stamp[0] > _STAMP_SECONDS:
                self._stamp = (now, stamp_of(self._config) or "")
            return self._stamp[1]

    def data(self) -> ClientData:
        """The data as they are now. Raises ConfigurationError, DataError."""
        stamp = self.stamp()
        with self._lock:
            if self._loaded is None or self._loaded[0] != stamp:
                data = self._config.data
                loaded = load_client_data(data.adapter, data.path, self._config.kind, data.options, data.partition)
                self._loaded = (stamp, loaded)
            return self._loaded[1]

    def sheet(self) -> bytes | None:
        """The contact sheet as a PNG; None where the data have no pictures. Raises ConfigurationError, DataError."""
        stamp, data = self.stamp(), self.data()
        with self._lock:
            if self._sheet is None or self._sheet[0] != stamp:
                drawn = contact_sheet(data)
                file = io.BytesIO()
                if drawn is not None:
                    drawn.save(file, format="PNG")
                self._sheet = (stamp, file.getvalue() or None)
            return self._sheet[1]

    def _look(self, progress: Progress) -> KeptLook:
        stamp = stamp_of(self._config) or ""
        _, report = look_at(self._config, progress)
        with self._lock:
            self._stamp = (time.monotonic(), stamp)
        return KeptLook(report=report.to_dict(), stamp=stamp, at=datetime.now(UTC))
