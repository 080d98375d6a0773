"""deploy/compose/observability.yml for real, as far as Prometheus goes: Grafana is not built here, so it is left out.

A stand-in takes the place of upstream's image, which cannot be had everywhere: the same program at the same path, as
`make tools TOOLS=prometheus` has built it.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.compose.stack.docker import NEEDS_DOCKER, SERVICES, Stack, fresh_stack, run
from tests.end_to_end.prometheus import Prometheus
from tests.operations.rules import alerts
from tests.servers import free_port, required_go_program

pytestmark = [pytest.mark.timeout(1200), NEEDS_DOCKER]
_STAND_IN = """
FROM debian:bookworm-slim
RUN apt-get update && apt-get install --yes --no-install-recommends wget && rm -rf /var/lib/apt/lists/*
COPY prometheus /bin/prometheus
RUN install -d -o 65534 -g 65534 /prometheus
USER 65534:65534
WORKDIR /prometheus
VOLUME /prometheus
ENTRYPOINT ["/bin/prometheus"]
"""


def stand_in(folder: Path, tag: str) -> None:
    shutil.copy(required_go_program("prometheus"), folder / "prometheus")
    (folder / "Dockerfile").write_text(_STAND_IN, encoding="utf-8")
    run(["docker", "build", "--quiet", "--tag", tag, str(folder)])


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    tag = "fedafd/prometheus-stand-in:compose-test"
    stand_in(tmp_path_factory.mktemp("prometheus"), tag)
    with fresh_stack(tmp_path_factory.mktemp("compose-observability"), "observability") as stack:
        stack.environment |= {"FEDAFD_PROMETHEUS_IMAGE": tag, "FEDAFD_PROMETHEUS_PORT": str(free_port())}
        stack.compose("build", "--quiet", seconds=1800)
        yield stack
    subprocess.run(["docker", "image", "rm", tag], capture_output=True, check=False)


@pytest.fixture(scope="module")
def prometheus(stack: Stack) -> Prometheus:
    return Prometheus(f"http://127.0.0.1:{stack.environment['FEDAFD_PROMETHEUS_PORT']}")


def until(ready: Callable[[], bool], what: Callable[[], Any], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, what()
        time.sleep(1)


def test_it_comes_up_healthy_beside_the_federation(stack: Stack) -> None:
    with stack.timed("up_seconds"):
        stack.up(*SERVICES, "prometheus")
    assert stack.health("prometheus") == "healthy"


def test_every_process_is_found_by_its_name_and_scraped(prometheus: Prometheus) -> None:
    def health() -> dict[str, str]:
        return {each["labels"]["job"]: each["health"] for each in prometheus.ask("targets")["activeTargets"]}

    wanted = dict.fromkeys(("fedafd-control-plane", "fedafd-aggregator", "fedafd-distiller", "fedafd-queries"), "up")
    until(lambda: health() == wanted, health)


def test_it_has_our_alerts(prometheus: Prometheus) -> None:
    def rules() -> dict[str, str]:
        return {rule["name"]: rule["health"] for group in prometheus.ask("rules")["groups"] for rule in group["rules"]}

    wanted = {rule["alert"]: "ok" for rule in alerts()}
    until(lambda: rules() == wanted, rules)


def test_a_stopped_process_is_noticed(stack: Stack, prometheus: Prometheus) -> None:
    def down() -> list[dict[str, str]]:
        raised = prometheus.ask("alerts")["alerts"]
        return [each["labels"] for each in raised if each["labels"]["alertname"] == "FedafdProcessDown"]

    until(lambda: not down(), down)
    stack.compose("stop", "control-plane")
    with stack.timed("stopped_process_noticed_seconds"):
        until(lambda: {each["job"] for each in down()} == {"fedafd-control-plane"}, down)
    # Docker's name service forgets a stopped container, and Prometheus its target: the alert must not end with it.
    until(lambda: not prometheus.samples('up{job="fedafd-control-plane"}'), lambda: prometheus.ask("targets"))
    until(lambda: [each.get("instance") for each in down()] == [None], down)


def test_down_v_leaves_nothing(stack: Stack) -> None:
    stack.compose("down", "--volumes")
    assert stack.leftovers() == []
