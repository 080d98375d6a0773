"""The agent's metrics, for a site that scrapes them on `metrics_port`."""

from __future__ import annotations

from fedafd.telemetry.metrics import STAGE_BUCKETS, Metrics

__all__ = ["AgentMetrics"]


class AgentMetrics(Metrics):
    """Rounds by outcome, seconds per round, bytes of blobs up and down."""

    def __init__(self) -> None:
        super().__init__("agent")
        self._rounds = self.counter("rounds", "Rounds taken part in, by outcome.", ["outcome"])
        self._seconds = self.histogram("round_seconds", "Seconds from task to receipt.", buckets=STAGE_BUCKETS)
        self.bytes_sent = self.counter("sent_bytes", "Bytes of uploaded blobs.")
        self.bytes_received = self.counter("received_bytes", "Bytes of downloaded blobs.")

    def round_done(self, outcome: str, seconds: float) -> None:
        """Count a round; `outcome` is delivered, rejected, closed or failed."""
        self._rounds.labels(outcome=outcome).inc()
        self._seconds.observe(seconds)
