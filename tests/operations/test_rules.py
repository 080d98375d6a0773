"""What Prometheus's own tool says of its configuration, and of each alert on series made for it (alerts/)."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry
from tests.operations.rules import OBSERVABILITY, RULES, alerts
from tests.servers import ROOT, required_go_program

from fedafd.aggregator.metrics import AggregatorMetrics
from fedafd.control_plane.observed import ControlPlaneMetrics
from fedafd.distiller.metrics import DistillerMetrics

CASES = sorted(Path(__file__).with_name("alerts").glob("*.yml"))
CONFIG = ROOT / "deploy" / "compose" / "prometheus.yml"


def promtool(*arguments: str) -> str:
    command = [required_go_program("promtool"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_rules_are_valid() -> None:
    assert f"{len(alerts())} rules found" in promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))


def test_the_configuration_and_the_rules_that_it_names_are_valid(tmp_path: Path) -> None:
    text = CONFIG.read_text(encoding="utf-8")
    assert "/etc/prometheus/fedafd/alerts/*.yml" in text  # where observability.yml mounts deploy/observability
    config = tmp_path / "prometheus.yml"
    config.write_text(text.replace("/etc/prometheus/fedafd", str(OBSERVABILITY)), encoding="utf-8")
    assert "1 rule files found" in promtool("check", "config", "--lint=all", "--lint-fatal", str(config))


def test_each_alert_fires_when_it_should_and_not_when_it_should_not() -> None:
    promtool("test", "rules", *map(str, CASES))


@pytest.mark.parametrize("alert", [rule["alert"] for rule in alerts()])
def test_each_alert_is_tested_both_ways(alert: str) -> None:
    tests = [case for path in CASES for case in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]]
    cases = [case for case in tests if case["name"].startswith(f"{alert}: ")]
    expected = [[bool(look["exp_alerts"]) for look in case["alert_rule_test"]] for case in cases]
    assert any(any(case) for case in expected), "no case in which it fires"
    assert any(not any(case) for case in expected), "no case in which it does not"
    assert all(look["alertname"] == alert for case in cases for look in case["alert_rule_test"])


def test_the_overlay_runs_the_version_that_the_tests_build() -> None:
    built = re.search(r"cmd/prometheus@v0\.3(\d\d)\.(\d+)", (ROOT / "tools" / "install_go_tools.sh").read_text())
    overlay = (ROOT / "deploy" / "compose" / "observability.yml").read_text(encoding="utf-8")
    assert built is not None
    # Release 3.5.0 is the module's version 0.305.0.
    assert f"prom/prometheus:v3.{int(built[1])}.{built[2]}}}" in overlay


def _values(registry: CollectorRegistry, name: str) -> dict[str, float]:
    """By the value of the label that the alert or the panel looks at."""
    samples = [sample for family in registry.collect() for sample in family.samples if sample.name == name]
    return {",".join(sample.labels.values()): sample.value for sample in samples}


def test_a_first_failure_is_an_increase() -> None:
    """A counter that first appears with 1 has no increase for Prometheus, and its alert would stay silent."""
    registry = AggregatorMetrics().metrics.registry
    kinds = dict.fromkeys(("prepare", "fold", "weigh", "merge", "distil", "evaluate"), 0.0)
    assert _values(registry, "fedafd_aggregator_round_transitions_total")["failed"] == 0
    assert _values(registry, "fedafd_aggregator_deliveries_total")["rejected"] == 0
    assert _values(registry, "fedafd_aggregator_stage_failures_total") == kinds
    assert _values(registry, "fedafd_aggregator_stage_wait_seconds_count") == kinds
    assert _values(ControlPlaneMetrics().registry, "fedafd_control_plane_queries_total")["unanswered"] == 0
    assert _values(DistillerMetrics().registry, "fedafd_distiller_stage_seconds_count") == kinds
