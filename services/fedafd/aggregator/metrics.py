"""Metrics of the aggregator."""

from __future__ import annotations

from fedafd.telemetry.metrics import Metrics

__all__ = ["AggregatorMetrics"]


class AggregatorMetrics:
    """Counters and timings; labels are bounded."""

    def __init__(self) -> None:
        self.metrics = Metrics("aggregator")
        self.calls = self.metrics.counter("calls", "RPCs by method and status code.", ("method", "code"))
        self.call_seconds = self.metrics.histogram("call_seconds", "Duration of unary RPCs.", ("method",))
        self.bytes_in = self.metrics.counter("upload_bytes", "Bytes of chunks received from agents.")
        self.bytes_out = self.metrics.counter("download_bytes", "Bytes of artifacts sent to agents.")
        self.deliveries = self.metrics.counter("deliveries", "Settled deliveries.", ("outcome",))
        self.transitions = self.metrics.counter("round_transitions", "Rounds that entered a state.", ("state",))
        self.leader = self.metrics.gauge("coordinator_leader", "1 while this aggregator coordinates.")
