"""Metrics of the aggregator: what it did itself, and, while it coordinates, what the database says of all."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from fedafd.domain.kinds import StageKind, UploadPurpose
from fedafd.domain.states import OPEN_ROUND_STATES, ParticipationState, RoundState, StageState
from fedafd.persistence.survey_repository import Survey
from fedafd.telemetry.metrics import STAGE_BUCKETS, Metrics

__all__ = ["AggregatorMetrics", "SurveyCollector"]

_OPEN_STAGES = (StageState.PENDING, StageState.RUNNING)


class AggregatorMetrics:
    """Counters and timings of this process; `survey` is set by the one that coordinates."""

    def __init__(self) -> None:
        self.metrics = metrics = Metrics("aggregator")
        self.calls = metrics.counter("calls", "RPCs by method and status code.", ("method", "code"))
        self.call_seconds = metrics.histogram("call_seconds", "Duration of unary RPCs.", ("method",))
        self.calls_in_flight = metrics.gauge("calls_in_flight", "RPCs that are being answered.")
        self.bytes_in = metrics.counter("upload_bytes", "Bytes of chunks received from agents.")
        self.bytes_out = metrics.counter("download_bytes", "Bytes of artifacts sent to agents.")
        self.uploads = metrics.counter("uploads", "Complete blobs received from agents.", ("purpose",))
        self.deliveries = metrics.counter("deliveries", "Settled deliveries.", ("outcome",))
        self.transitions = metrics.counter(
            "round_transitions", "Rounds that the coordinator moved into a state.", ("state",)
        )
        self.round_seconds = metrics.histogram(
            "round_seconds", "From the start of a round to its end, by how it ended.", ("state",), STAGE_BUCKETS
        )
        self.state_seconds = metrics.histogram(
            "round_state_seconds", "How long rounds stayed in a state that they left.", ("state",), STAGE_BUCKETS
        )
        self.stage_wait_seconds = metrics.histogram(
            "stage_wait_seconds", "From a stage's announcement to its claim.", ("kind",), STAGE_BUCKETS
        )
        self.stage_failures = metrics.counter("stage_failures", "Stages given up or lost by a distiller.", ("kind",))
        self.clock_skew = metrics.gauge(
            "clock_skew_seconds", "How far this machine's clock is ahead of the database's."
        )
        self.certificate_expiry = metrics.gauge(
            "certificate_expiry_timestamp_seconds",
            "When a certificate that nobody renews by itself expires, seconds since 1970.",
            ("certificate",),
        )
        self.leader = metrics.gauge("coordinator_leader", "1 while this aggregator coordinates.")
        self.draining = metrics.gauge("draining", "1 while this aggregator takes nothing new.")
        self.healthy = metrics.gauge("healthy", "1 while database and object store answer.")
        self._start_at_zero()
        self.survey = SurveyCollector()
        metrics.registry.register(self.survey)

    def _start_at_zero(self) -> None:
        """Export the series that alerts and dashboards look at from the start: Prometheus sees an increase only between
        two samples, so a counter that first appears with 1 would hide the first failure, and the first round."""
        for state in RoundState:
            if state in OPEN_ROUND_STATES:
                self.state_seconds.labels(state=state.value)
            if state not in (RoundState.QUEUED, RoundState.CANCELLED):  # the control plane moves rounds there
                self.transitions.labels(state=state.value)
        for ended in (RoundState.COMPLETED, RoundState.FAILED):
            self.round_seconds.labels(state=ended.value)
        for outcome in (ParticipationState.DELIVERED, ParticipationState.REJECTED):
            self.deliveries.labels(outcome=outcome.value)
        for kind in StageKind:
            self.stage_failures.labels(kind=kind.value)
            self.stage_wait_seconds.labels(kind=kind.value)
        for purpose in UploadPurpose:
            self.uploads.labels(purpose=purpose.value)


class SurveyCollector(Collector):
    """The newest survey as gauges; without samples while another aggregator coordinates."""

    def __init__(self) -> None:
        self._latest: tuple[Survey, int | None] | None = None

    def show(self, survey: Survey | None, queue_depth: int | None = None) -> None:
        """From here on show this survey; None shows nothing. `queue_depth` is None if Redis does not answer."""
        self._latest = None if survey is None else (survey, queue_depth)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """All families, also those without samples, so that names can be checked."""
        survey, depth = self._latest or (Survey(), None)
        known = self._latest is not None
        yield _family("rounds", "Rounds by state.", ("federation", "state"), survey.rounds)
        # None is 0, not nothing: a panel would go on with the last value that it saw.
        none = {(kind.value, state.value): 0.0 for kind in StageKind for state in _OPEN_STAGES} if known else {}
        yield _family("stages", "Open stages by state.", ("kind", "state"), none | survey.stages)
        yield _family("clients", "Clients: invited, present, away, revoked.", ("federation", "state"), survey.clients)
        yield _family(
            "participations",
            "Participations of the latest round, by state.",
            ("federation", "state"),
            survey.participations,
        )
        yield _family("model_version", "The federation's current version.", ("federation",), survey.current_versions)
        yield _family(
            "model_metric",
            "Metrics of the latest ten model versions.",
            ("federation", "version", "metric"),
            survey.model_metrics,
        )
        outbox: dict[tuple[str, ...], float] = {(): survey.unsent_messages} if known else {}
        yield _family("outbox_unsent", "Messages that the broker has not taken yet.", (), outbox)
        queue: dict[tuple[str, ...], float] = {} if depth is None else {(): depth}
        yield _family("queue_depth", "Messages in the broker that no distiller has taken.", (), queue)
        drained: dict[tuple[str, ...], float] = {(): float(survey.drained)} if known else {}
        yield _family(
            "rounds_held", "1 while no new round starts, because an operator drained the service.", (), drained
        )


def _family(name: str, help: str, labels: tuple[str, ...], values: dict[tuple[str, ...], float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"fedafd_aggregator_{name}", help, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family
