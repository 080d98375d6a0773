"""Trackers by name, and a wrapper under which none of them can stop a run.

A tracker is built in, or an entry point of the group `fedafd.trackers`: a callable that takes a TrackedRun and
the options of the configuration and returns a Tracker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol

__all__ = ["TrackedRun", "Tracker", "Trackers", "tracker_names"]

GROUP = "fedafd.trackers"
_BUILT_IN = {"tensorboard": EntryPoint("tensorboard", "fedafd.tracking.tensorboard:TensorBoard", GROUP)}


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """What a tracker is told of a run before its first point."""

    name: str
    """With slashes, and the same each time the run is taken up again."""
    tags: Mapping[str, str]
    output: Path
    """Folder of the experiment; relative paths of a tracker start here."""


class Tracker(Protocol):
    """Where the metrics of one run go. Whatever its methods raise ends the tracker, never the run."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics of one round. A run that is resumed tells all its rounds again: replace them, don't add."""

    def close(self) -> None:
        """The run is over, or left."""


class Trackers:
    """All trackers of a run; one that fails is left out from then on, and `tell` gets one line about it."""

    def __init__(self, options: Mapping[str, Mapping[str, Any]], run: TrackedRun, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._open: dict[str, Tracker] = {}
        for name, values in options.items():
            self._try(name, lambda name=name, values=values: self._start(name, run, values))  # type: ignore[misc]

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Tell every tracker that still works."""
        for name, tracker in list(self._open.items()):
            self._try(name, lambda tracker=tracker: tracker.log(step, metrics))  # type: ignore[misc]

    def close(self) -> None:
        """End those that still work."""
        for name, tracker in list(self._open.items()):
            self._try(name, tracker.close)
        self._open.clear()

    def _start(self, name: str, run: TrackedRun, options: Mapping[str, Any]) -> None:
        self._open[name] = _known()[name].load()(run, options)

    def _try(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # a tracker is other people's code, and the run is worth more
            self._open.pop(name, None)
            named = (
                f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
            )
            said = " ".join(named.split())
            self._tell(f"tracker {name}: {said or type(error).__name__}; the run goes on without it")


def tracker_names() -> list[str]:
    """Trackers that are built in or installed."""
    return sorted(_known())


@cache
def _known() -> Mapping[str, EntryPoint]:
    """Looked up once in a process, because it reads the files of every package."""
    return {point.name: point for point in entry_points(group=GROUP)} | _BUILT_IN
