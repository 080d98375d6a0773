"""Real processes and real signals while a round is in flight: nothing is lost, every process exits with 0."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.end_to_end.federation import FEDERATION, KINDS, Trial, embedded
from tests.end_to_end.proxy import proxy
from tests.end_to_end.supervised import LoggedSupervisor
from tests.servers import accepts, free_port

from fedafd.datasets import load_public_data, write_public_set
from fedafd.local.supervisor import Child

pytestmark = pytest.mark.timeout(900)
_GRACE = "FEDAFD_DISTILLER_SHUTDOWN_GRACE_SECONDS"


class RollingTrial(Trial):
    """Two aggregators behind one address."""

    address = ""
    ports: tuple[int, ...] = ()

    def start_services(self, *, distiller: bool) -> None:
        services = self.services
        services.aggregator = self.address
        services.migrate()
        self.control_plane = services.start_control_plane()
        self.aggregators = {port: self.start_aggregator(port) for port in self.ports}
        self.distiller = services.start_distiller()
        services.wait_for_control_plane()

    def start_aggregator(self, port: int) -> Child:
        child = self.services.start_aggregator(f"127.0.0.1:{port}", name=f"aggregator-{port}")
        self.until(lambda: accepts(port), "the aggregator")
        return child

    def terminate(self, child: Child, seconds: float = 120) -> int:
        """SIGTERM; the exit code."""
        self.supervisor.forget(child)
        os.kill(child.process.pid, signal.SIGTERM)
        return child.process.wait(seconds)


@pytest.fixture
def trial(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[RollingTrial]:
    monkeypatch.setenv(_GRACE, "0")
    monkeypatch.setenv("FEDAFD_AGGREGATOR_STAGE_LEASE_SECONDS", "120")  # a loaded machine must not look like a death
    ports = (free_port(), free_port())
    redis = redis_url.removesuffix("/0") + "/6"
    backends = embedded(tmp_path, redis)
    with proxy(ports) as address, LoggedSupervisor(tmp_path / "logs") as supervisor:
        RollingTrial.address, RollingTrial.ports = address, ports
        trial = RollingTrial(supervisor, backends, tmp_path)
        public = load_public_data("shapes", None, {"num_train": 64, "num_val": 16, "num_test": 32, "seed": 5})
        write_public_set(public, tmp_path / "public-set")
        # Progress is told once a second: stages must last longer than that on a fast machine too.
        long = {"server": {"passes": 80, "batch_size": 16}, "distillation": {"start_round": 1, "passes": 40}}
        trial.rest.create(FEDERATION | long | {"idle_timeout_seconds": 600})
        trial.rest.push_public_set(tmp_path / "public-set")
        trial.invite_all()
        yield trial
        trial.rest.close()


def test_every_process_is_replaced_while_a_round_is_in_flight(
    trial: RollingTrial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents = {name: trial.start_agent(name) for name in KINDS}
    trial.until(lambda: all(c["state"] == "enrolled" for c in trial.rest.clients()), "the agents", 300)
    trial.rest.start_rounds(1)

    # A distiller without grace hands its stage back instead of finishing it.
    trial.until(lambda: _stage(trial, "prepare").get("progress", 0) > 0, "a step of the first stage", 300)
    assert trial.terminate(trial.distiller) == 0
    assert _stage(trial, "prepare")["state"] == "pending"
    monkeypatch.setenv(_GRACE, "100")
    trial.distiller = trial.services.start_distiller()

    trial.until(lambda: trial.rest.round(1)["state"] == "collecting", "the cohort's turn", 300)
    for port in trial.ports:
        assert trial.terminate(trial.aggregators[port]) == 0
        trial.start_aggregator(port)
    if _participation(trial, "pairs")["state"] != "delivered":
        assert trial.terminate(agents["pairs"]) == 0
        trial.start_agent("pairs")
    assert trial.terminate(trial.control_plane) == 0
    trial.services.start_control_plane()
    trial.services.wait_for_control_plane()

    # A distiller with grace finishes its stage.
    trial.until(lambda: _stage(trial, "distil").get("state") in ("running", "done"), "distilling", 300)
    assert trial.terminate(trial.distiller) == 0
    assert _stage(trial, "distil")["state"] == "done"
    trial.services.start_distiller()

    answer = trial.rest.wait_for_round(1, lambda _: None, seconds=300)
    assert {p["client"]: p["state"] for p in answer["participations"]} == dict.fromkeys(KINDS, "delivered")
    events = trial.rest.events()
    kinds = [event["kind"] for event in events]
    assert kinds.count("stage.handed_back") == 1
    assert not {"stage.failed", "stage.lost", "participation.dropped", "participation.rejected"} & set(kinds)
    for participation in answer["participations"]:
        ledger = tmp_path / participation["client"] / "sent.jsonl"
        sent = [json.loads(line) for line in ledger.read_text().splitlines()]
        blobs = {e["sha256"]: e["bytes"] for e in sent if e["what"] in ("representations", "personalized-model")}
        assert participation["bytes_up"] >= sum(blobs.values()), "an upload was lost"


def _stage(trial: Trial, kind: str) -> Mapping[str, Any]:
    return next((stage for stage in trial.rest.round(1)["stages"] if stage["kind"] == kind), {})


def _participation(trial: Trial, client: str) -> Mapping[str, Any]:
    return next((p for p in trial.rest.round(1)["participations"] if p["client"] == client), {})
