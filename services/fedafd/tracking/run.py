"""What a tracker is given, and what it has to do."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fedafd.domain.errors import ConfigurationError

__all__ = ["TrackedRun", "Tracker", "check_options", "lasting_id"]

_ID_FILE = "tracking-id"


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """What a tracker is told of a run before its first point."""

    name: str
    """With slashes, for people."""
    id: str
    """The same each time the run is taken up again, and no other run's."""
    tags: Mapping[str, str]
    output: Path
    """A folder of the run's owner; relative paths of a tracker start here."""


class Tracker(Protocol):
    """Where the metrics of one run go. It has a thread of its own: it may block, and may raise.

    What it raises closes it; it is started anew, and told all rounds of the run, when the next round is over.
    """

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics of one round; later more of the same round. A run that is taken up again tells all its rounds again:
        a point that is there is to be replaced or kept, not added to."""

    def close(self) -> None:
        """The run is over, or left."""


def lasting_id(folder: Path) -> str:
    """What names this folder's runs among those of all others: made once and kept there. Raises OSError."""
    path = folder / _ID_FILE
    part = path.with_name(f".{_ID_FILE}.{os.getpid()}.{uuid.uuid4().hex[:8]}.part")
    if not path.exists():
        part.write_text(uuid.uuid4().hex, encoding="ascii")
        # Whoever is first gives the name, of several processes too.
        with suppress(FileExistsError):
            path.hardlink_to(part)
        part.unlink()
    return path.read_text(encoding="ascii").strip()


def check_options(name: str, options: Mapping[str, Any], allowed: set[str]) -> None:
    """Raises ConfigurationError for an option that the tracker does not have, or that is no text."""
    for key, value in options.items():
        if key not in allowed:
            raise ConfigurationError(f"tracking.{name}.{key}: not known; allowed: {', '.join(sorted(allowed))}")
        if not isinstance(value, str) or not value:
            raise ConfigurationError(f"tracking.{name}.{key}: must be a text")
