"""How a distiller ends: it finishes the stage at hand if the time allows, and hands it back if not."""

from __future__ import annotations

from time import monotonic
from typing import Any

from celery.signals import worker_shutting_down

from fedafd.distiller.metrics import DistillerMetrics
from fedafd.domain.process_errors import HandedBackError
from fedafd.telemetry.ending import end_within
from fedafd.telemetry.logging import get_logger

__all__ = ["HARD_END_SECONDS", "Shutdown", "StageHandedBackError"]

HARD_END_SECONDS = 9.0
"""After the grace: progress is kept and the stage handed back, which a store or an aggregator that hangs delays. What
the platform grants lies above it in every file that we ship (tests/compose/test_files.py, tests/helm).
"""
_log = get_logger(__name__)


class StageHandedBackError(HandedBackError):
    """The process ends and the stage was not finished in time: another distiller shall do it."""


class Shutdown:
    """Hears Celery's warm shutdown (SIGTERM): nothing new is taken, and a clock runs for the stage at hand."""

    def __init__(self, grace_seconds: float, metrics: DistillerMetrics) -> None:
        self._grace = grace_seconds
        self._metrics = metrics
        self._deadline: float | None = None
        worker_shutting_down.connect(self.begin, weak=False)

    @property
    def begun(self) -> bool:
        """True once nothing new is taken."""
        return self._deadline is not None

    def begin(self, **_: Any) -> None:
        """Start the clock; harmless when repeated."""
        if self._deadline is None:
            self._deadline = monotonic() + self._grace
            self._metrics.draining.set(1)
            end_within(self._grace + HARD_END_SECONDS)
            _log.info("distiller.draining", grace_seconds=self._grace)

    def check(self) -> None:
        """Raise StageHandedBackError once the time is up."""
        if self._deadline is not None and monotonic() >= self._deadline:
            raise StageHandedBackError(f"the distiller is shutting down and its {self._grace:g} s of grace are over")
