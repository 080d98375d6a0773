"""A real round with every process: what each exports to Prometheus, logs and traces about it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tests.end_to_end.federation import FEDERATION, KINDS, Trial, agent_config, embedded
from tests.end_to_end.otlp import Collector, collector
from tests.end_to_end.prometheus import Prometheus, write_config
from tests.end_to_end.supervised import LoggedSupervisor
from tests.operations.rules import alerts, panels, variables
from tests.servers import free_port, go_program, prometheus_server, required_go_program

from fedafd.datasets import load_public_data, write_public_set
from fedafd.local.services import Backends
from fedafd.local.supervisor import Supervisor

pytestmark = pytest.mark.timeout(400)
Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]
STAGES = 11
"""Of one round: prepare, four folds, a weighing and a merge for each modality, distil and evaluate."""


class ObservedTrial(Trial):
    """Agents serve metrics too."""

    def __init__(self, supervisor: Supervisor, backends: Backends, folder: Path) -> None:
        super().__init__(supervisor, backends, folder)
        self.ports = {name: free_port() for name in KINDS}

    def agent_file(self, name: str) -> Path:
        path = self.folder / f"{name}.yaml"
        config = agent_config(name, self.folder / name, self.services.aggregator)
        path.write_text(yaml.safe_dump(config | {"metrics_port": self.ports[name]}))
        return path


@dataclass
class Observed:
    """What was seen of a completed round."""

    metrics: dict[str, Series]
    logs: dict[str, list[dict[str, object]]]
    traces: Collector
    trace_id: bytes
    prometheus: Prometheus | None
    """None where the program is not built."""

    def value(self, process: str, name: str, **labels: str) -> float:
        """Sum of the series of that name that have these labels."""
        found = [
            value
            for (series, pairs), value in self.metrics[process].items()
            if series == name and labels.items() <= dict(pairs).items()
        ]
        assert found, f"{process} exports no {name} with {labels}"
        return sum(found)


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Observed]:
    folder = tmp_path_factory.mktemp("observed")
    ports = {"aggregator": free_port(), "distiller": free_port(), "queries": free_port()}
    with pytest.MonkeyPatch.context() as patch, collector() as traces, ExitStack() as stack:
        for process, port in ports.items():
            patch.setenv(f"FEDAFD_{process.upper()}_METRICS_LISTEN", f"127.0.0.1:{port}")
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", traces.endpoint)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
        backends = embedded(folder, redis_url.removesuffix("/0") + "/5")
        with LoggedSupervisor(folder / "logs") as supervisor:
            trial = ObservedTrial(supervisor, backends, folder)
            trial.services.start_queries()
            prometheus = watched(stack, trial, folder, ports)
            if prometheus:
                # Counters that it has not seen at 0 would not count as increased.
                trial.until(lambda: prometheus.note("min(up) == 1"), "Prometheus's first look")
            trace_id = run_a_round(trial)
            urls = {name: f"http://127.0.0.1:{port}/metrics" for name, port in (ports | trial.ports).items()}
            urls["control-plane"] = f"{trial.services.url}/metrics"
            trial.until(lambda: "model_metric{" in httpx.get(urls["aggregator"]).text, "the survey after the round")
            metrics = {name: scraped(url) for name, url in urls.items()}
            if prometheus:
                # A scrape that took too long on a busy machine would leave a hole at the moment that is looked at.
                settled = (
                    'fedafd_aggregator_round_transitions_total{state="completed"} > 0'
                    f' and on () sum(fedafd_distiller_stages_total{{outcome="done"}}) == {STAGES}'
                    " and on () fedafd_aggregator_model_metric and on () min(up) == 1"
                )
                trial.until(lambda: prometheus.note(settled), "Prometheus's look")
            trial.rest.close()
        logs = {path.stem: list(events(path)) for path in (folder / "logs").glob("*.log")}
        yield Observed(metrics, logs, traces, trace_id, prometheus)


def watched(stack: ExitStack, trial: Trial, folder: Path, ports: Mapping[str, int]) -> Prometheus | None:
    """A Prometheus that scrapes the trial's processes, where its program is there."""
    program = go_program("prometheus")
    if program is None:
        return None
    targets = {f"fedafd-{name}": f"127.0.0.1:{port}" for name, port in ports.items()}
    targets["fedafd-control-plane"] = trial.services.url.removeprefix("http://")
    write_config(folder / "prometheus.yml", targets)
    return Prometheus(stack.enter_context(prometheus_server(program, folder / "prometheus.yml", folder)))


def run_a_round(trial: Trial) -> bytes:
    """Queue one as part of a trace of ours; returns the trace's id."""
    public = load_public_data("shapes", None, {"num_train": 64, "num_val": 16, "num_test": 32, "seed": 5})
    write_public_set(public, trial.folder / "public-set")
    trial.rest.create(FEDERATION)
    trial.rest.push_public_set(trial.folder / "public-set")
    trial.invite_all()
    for name in KINDS:
        trial.start_agent(name)
    trial.until(lambda: all(c["state"] == "enrolled" for c in trial.rest.clients()), "the agents")
    trace_id = bytes(range(16))
    answer = httpx.post(
        f"{trial.services.url}/v1/federations/{FEDERATION['name']}/rounds",
        json={"count": 1},
        headers={
            "Authorization": f"Bearer {trial.services.api_key}",
            "traceparent": f"00-{trace_id.hex()}-00f067aa0ba902b7-01",
        },
    )
    assert answer.status_code == 201, answer.text
    trial.rest.wait_for_round(1, lambda _: None, seconds=200)
    return trace_id


def scraped(url: str) -> Series:
    families = text_string_to_metric_families(httpx.get(url).text)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def events(path: Path) -> Iterator[dict[str, object]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("{"):
            yield json.loads(line)


def test_every_process_says_what_it_uses(observed: Observed) -> None:
    assert set(observed.metrics) == {"control-plane", "aggregator", "distiller", "queries", *KINDS}
    for process in observed.metrics:
        assert observed.value(process, "process_resident_memory_bytes") > 1 << 20
        assert observed.value(process, "process_cpu_seconds_total") > 0


def test_the_control_plane_counts_requests_by_route(observed: Observed) -> None:
    route = "/v1/federations/{federation}/rounds"
    assert observed.value("control-plane", "fedafd_control_plane_requests_total", route=route, method="POST") == 1
    assert observed.value("control-plane", "fedafd_control_plane_request_seconds_count", route=route) == 1


def test_the_aggregator_tells_of_rounds_uploads_bytes_and_the_model(observed: Observed) -> None:
    def value(name: str, **labels: str) -> float:
        return observed.value("aggregator", f"fedafd_aggregator_{name}", **labels)

    trial = FEDERATION["name"]
    assert value("rounds", federation=trial, state="completed") == 1
    assert value("round_transitions_total", state="completed") == 1
    assert value("round_seconds_count", state="completed") == 1
    for state in ("preparing", "collecting", "distilling", "evaluating"):
        assert value("round_state_seconds_count", state=state) == 1
    assert value("participations", federation=trial, state="delivered") == len(KINDS)
    assert value("deliveries_total", outcome="delivered") == len(KINDS)
    assert value("uploads_total", purpose="representations") == len(KINDS)
    assert value("uploads_total", purpose="personalized-model") == len(KINDS)
    assert value("clients", federation=trial, state="present") == len(KINDS)
    assert value("model_version", federation=trial) == 1
    assert 0 <= value("model_metric", federation=trial, version="1", metric="rsum") <= 600
    assert value("stage_wait_seconds_count", kind="fold") == 4  # image, text, and both of the pair client
    assert value("queue_depth") == 0
    assert value("outbox_unsent") == 0
    assert value("coordinator_leader") == 1
    assert value("healthy") == 1
    sent = sum(observed.value(name, "fedafd_agent_sent_bytes_total") for name in KINDS)
    received = sum(observed.value(name, "fedafd_agent_received_bytes_total") for name in KINDS)
    assert value("upload_bytes_total") == sent > 0
    assert value("download_bytes_total") == received > 0


def test_the_distiller_times_its_stages(observed: Observed) -> None:
    for kind, count in {"prepare": 1, "fold": 4, "distil": 1, "evaluate": 1}.items():
        labels = {"kind": kind}
        assert observed.value("distiller", "fedafd_distiller_stages_total", outcome="done", **labels) == count
        assert observed.value("distiller", "fedafd_distiller_stage_seconds_count", **labels) == count
    assert observed.value("distiller", "fedafd_distiller_written_bytes_total") > 0
    assert observed.value("distiller", "fedafd_distiller_read_bytes_total") > 0
    assert observed.value("distiller", "fedafd_distiller_busy") == 0


def test_each_agent_times_its_phases(observed: Observed) -> None:
    for name in KINDS:
        assert observed.value(name, "fedafd_agent_rounds_total", outcome="delivered") == 1
        for phase in ("download", "train", "deliver"):
            assert observed.value(name, "fedafd_agent_phase_seconds_count", phase=phase) == 1
        assert observed.value(name, "fedafd_agent_last_round") == 1


def test_log_events_say_which_federation_round_and_client(observed: Observed) -> None:
    def event(process: str, name: str) -> dict[str, object]:
        return next(each for each in observed.logs[process] if each["event"] == name)

    trial = FEDERATION["name"]
    moved = event("aggregator", "round.state_changed")
    assert (moved["federation"], moved["round"], moved["process"]) == (trial, 1, "aggregator")
    stage = event("distiller", "stage.done")
    assert (stage["federation"], stage["round"], stage["stage"]) == (trial, 1, "prepare")
    for name in KINDS:
        trained = event(f"agent-{name}", "agent.trained")
        assert (trained["federation"], trained["round"], trained["client"]) == (trial, 1, name)
        assert {"timestamp", "level", "logger"} <= trained.keys()


def test_one_trace_joins_rest_outbox_celery_distiller_grpc_and_agents(observed: Observed) -> None:
    deadline = time.monotonic() + 30
    services = {f"fedafd-{name}" for name in ("control-plane", "aggregator", "distiller", "agent")}
    while observed.traces.services_of(observed.trace_id) != services and time.monotonic() < deadline:
        time.sleep(0.1)
    assert observed.traces.services_of(observed.trace_id) == services
    ours = {span.span_id: (service, span) for service, span in observed.traces.spans}
    of_trace = [span for _, span in ours.values() if span.trace_id == observed.trace_id]

    def ancestry(name: str) -> list[str]:
        """The names from the first span of that name up to the one that the request made."""
        span = next(span for span in of_trace if span.name == name)
        names = [span.name]
        while span.parent_span_id in ours:
            span = ours[span.parent_span_id][1]
            names.append(span.name)
        return names

    assert ancestry("http.POST") == ["http.POST"]
    assert ancestry("outbox.send") == ["outbox.send", "http.POST"]
    assert ancestry("work") == ["work", "stage", "outbox.send", "http.POST"]
    assert ancestry("rpc.ClaimStage") == ["rpc.ClaimStage", "stage", "outbox.send", "http.POST"]
    assert ancestry("train") == ["train", "participation", "http.POST"]
    assert ancestry("rpc.CommitUpload") == ["rpc.CommitUpload", "deliver", "participation", "http.POST"]
    assert len([span for span in of_trace if span.name == "participation"]) == len(KINDS)
    assert not observed.traces.named("rpc.FetchTask"), "polling must not make traces"


@pytest.fixture
def prometheus(observed: Observed) -> Prometheus:
    required_go_program("prometheus")
    assert observed.prometheus is not None
    return observed.prometheus


def test_prometheus_finds_every_process_under_the_name_that_alerts_expect(prometheus: Prometheus) -> None:
    assert {target["labels"]["job"]: target["health"] for target in prometheus.targets} == {
        "fedafd-control-plane": "up",
        "fedafd-aggregator": "up",
        "fedafd-distiller": "up",
        "fedafd-queries": "up",
    }


def test_prometheus_takes_every_alert_and_none_fires_after_a_good_round(prometheus: Prometheus) -> None:
    assert {rule["name"] for rule in prometheus.rules} == {rule["alert"] for rule in alerts()}
    for rule in prometheus.rules:
        assert rule["health"] == "ok", rule
        assert rule["state"] != "firing", rule
        prometheus.samples(rule["query"])


@pytest.mark.parametrize(("place", "expression"), list(panels()))
def test_every_panel_has_data_after_a_round(prometheus: Prometheus, place: str, expression: str) -> None:
    values = prometheus.samples(expression.replace("$federation", FEDERATION["name"]))
    if "gpu" in expression:  # this distiller has no such device
        assert values == []
    else:
        assert values


@pytest.mark.parametrize(("place", "query"), list(variables()))
def test_a_dashboards_variable_lists_the_federation(prometheus: Prometheus, place: str, query: str) -> None:
    series, label = query.removeprefix("label_values(").removesuffix(")").split(", ")
    assert prometheus.ask(f"label/{label}/values", **{"match[]": series}) == [FEDERATION["name"]]


@pytest.mark.parametrize(
    ("expression", "least"),
    [
        ('sum(increase(fedafd_aggregator_round_transitions_total{state="completed"}[1h]))', 1),
        ('sum(increase(fedafd_aggregator_deliveries_total{outcome="delivered"}[1h]))', len(KINDS)),
        ('sum(increase(fedafd_distiller_stages_total{outcome="done"}[1h]))', STAGES),
    ],
)
def test_the_first_round_of_all_is_an_increase(prometheus: Prometheus, expression: str, least: int) -> None:
    """For Prometheus a counter that appears with 1 has not increased, and the first failure would go unnoticed."""
    (value,) = prometheus.samples(expression)
    assert value >= least
