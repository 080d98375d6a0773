"""Metrics of the distiller."""

from __future__ import annotations

from fedafd.domain.kinds import StageKind
from fedafd.telemetry.metrics import STAGE_BUCKETS, Metrics

__all__ = ["DistillerMetrics"]

_OUTCOMES = ("done", "failed", "lost", "handed_back")


class DistillerMetrics(Metrics):
    """Stages by kind and outcome, their seconds, bytes from and to the object store; GPU memory where there is one."""

    def __init__(self) -> None:
        super().__init__("distiller")
        self.stages = self.counter("stages", "Stages by kind and outcome.", ("kind", "outcome"))
        self.stage_seconds = self.histogram("stage_seconds", "From claim to end of a stage.", ("kind",), STAGE_BUCKETS)
        self.resumed = self.counter(
            "resumed", "Parts of stages that went on from where another worker came.", ("kind",)
        )
        self.busy = self.gauge("busy", "1 while a stage is worked on.")
        self.deaf = self.gauge("deaf", "1 once messages waited and none arrived: the process ends.")
        self.draining = self.gauge("draining", "1 while this distiller takes nothing new.")
        self.bytes_read = self.counter("read_bytes", "Bytes of inputs read from the object store.")
        self.bytes_written = self.counter("written_bytes", "Bytes of outputs written to the object store.")
        # From the start, so that the first stage is an increase and not a new series.
        for kind in StageKind:
            self.stage_seconds.labels(kind=kind.value)
            self.resumed.labels(kind=kind.value)
            for outcome in _OUTCOMES:
                self.stages.labels(kind=kind.value, outcome=outcome)
