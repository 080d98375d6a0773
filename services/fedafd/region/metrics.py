"""Metrics of a region's process, served once it is enrolled: a health check of /metrics tells that, too."""

from __future__ import annotations

from fedafd.telemetry.metrics import Metrics

__all__ = ["RegionMetrics"]

_OUTCOMES = ("delivered", "rejected", "closed", "failed")


class RegionMetrics(Metrics):
    """Upper rounds by outcome, and whether it takes part in one."""

    def __init__(self) -> None:
        super().__init__("region")
        self._rounds = self.counter("rounds", "Upper rounds taken part in, by outcome.", ("outcome",))
        self.following = self.gauge("following", "1 while the region takes part in an upper round.")
        self.last_round = self.gauge("last_round", "Number of the latest upper round taken part in.")
        # From the start, so that the first round is an increase and not a new series.
        for outcome in _OUTCOMES:
            self._rounds.labels(outcome=outcome)

    def round_done(self, outcome: str) -> None:
        """Count a round; `outcome` is delivered, rejected, closed or failed."""
        self._rounds.labels(outcome=outcome).inc()
