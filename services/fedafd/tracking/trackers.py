"""Trackers by name, and those of one run, under which none of them can stop or delay anything.

A tracker is built in, or an entry point of the group `fedafd.trackers`: a callable that takes a TrackedRun and
the options of the configuration and returns a Tracker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any

from fedafd.domain.errors import ConfigurationError
from fedafd.tracking.run import TrackedRun, Tracker
from fedafd.tracking.tracker_thread import TrackerThread

__all__ = ["Trackers", "check_trackers", "missing_library", "tracker_names"]

GROUP = "fedafd.trackers"
_BUILT_IN = {
    "tensorboard": EntryPoint("tensorboard", "fedafd.tracking.tensorboard:TensorBoard", GROUP),
    "mlflow": EntryPoint("mlflow", "fedafd.tracking.mlflow:MlFlow", GROUP),
    "wandb": EntryPoint("wandb", "fedafd.tracking.wandb:WandB", GROUP),
}
_LIBRARIES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
CLOSE_SECONDS = 30.0
"""How long a tracker may take for what it was given last: a library's import, a new database, a slow server."""


class Trackers:
    """All trackers of a run, each in a thread of its own; `tell` gets a line when one stops working."""

    def __init__(
        self,
        options: Mapping[str, Mapping[str, Any]],
        run: TrackedRun,
        tell: Callable[[str], None],
        *,
        close_seconds: float = CLOSE_SECONDS,
    ) -> None:
        self._close_seconds = close_seconds
        self._threads = [
            TrackerThread(name, partial(_start, name, run, values), tell) for name, values in options.items()
        ]

    def show(self, rounds: Mapping[int, Mapping[str, float]]) -> None:
        """All rounds of the run so far, by number: each tracker gets what it was not told yet. Returns at once."""
        for thread in self._threads:
            thread.show(rounds)

    def close(self) -> None:
        """End them: what they were given is written first, as far as that takes no longer than `close_seconds`."""
        until = time.monotonic() + self._close_seconds
        for thread in self._threads:
            thread.end()
        for thread in self._threads:
            thread.wait(max(0.0, until - time.monotonic()))


def tracker_names() -> list[str]:
    """Trackers that are built in or installed."""
    return sorted(_known())


def check_trackers(names: Mapping[str, Any], where: str) -> None:
    """Raises ConfigurationError for one that is not known; `where` names the key that holds them."""
    for name in names:
        if name not in _known():
            raise ConfigurationError(f"{where}: {name!r} is not known; installed: {', '.join(tracker_names())}")


def missing_library(name: str) -> str | None:
    """The extra that brings what a built-in tracker needs, if that is not installed."""
    library = _LIBRARIES.get(name)
    return name if library is not None and find_spec(library) is None else None


def _start(name: str, run: TrackedRun, options: Mapping[str, Any]) -> Tracker:
    tracker: Tracker = _known()[name].load()(run, options)
    return tracker


@cache
def _known() -> Mapping[str, EntryPoint]:
    """Looked up once in a process, because it reads the files of every package."""
    return {point.name: point for point in entry_points(group=GROUP)} | _BUILT_IN
