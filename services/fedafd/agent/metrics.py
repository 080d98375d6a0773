"""The agent's metrics, for a site that scrapes them on `metrics_port`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from fedafd.telemetry.metrics import STAGE_BUCKETS, Metrics
from fedafd.telemetry.tracing import current_traceparent, span

__all__ = ["AgentMetrics"]


class AgentMetrics(Metrics):
    """Rounds by outcome, seconds per round and phase, bytes of blobs up and down; GPU memory where there is one."""

    def __init__(self) -> None:
        super().__init__("agent")
        self._rounds = self.counter("rounds", "Rounds taken part in, by outcome.", ["outcome"])
        self._seconds = self.histogram("round_seconds", "Seconds from task to receipt.", buckets=STAGE_BUCKETS)
        self.phase_seconds = self.histogram(
            "phase_seconds", "Seconds of a round's phases: download, train, deliver.", ["phase"], STAGE_BUCKETS
        )
        self.training = self.gauge("training", "1 while the agent takes part in a round.")
        self.last_round = self.gauge("last_round", "Number of the latest round taken part in.")
        self.bytes_sent = self.counter("sent_bytes", "Bytes of uploaded blobs.")
        self.bytes_received = self.counter("received_bytes", "Bytes of downloaded blobs.")

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """One phase of a round: timed, and a span where the round is traced."""
        with span(name) if current_traceparent() else nullcontext(), self.timed(self.phase_seconds, phase=name):
            yield

    def round_done(self, outcome: str, seconds: float) -> None:
        """Count a round; `outcome` is delivered, rejected, closed, refused or failed."""
        self._rounds.labels(outcome=outcome).inc()
        self._seconds.observe(seconds)
