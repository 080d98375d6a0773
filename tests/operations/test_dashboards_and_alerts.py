"""Dashboards and alerts name only what the code exports, and every alert has its section in the runbook."""

from __future__ import annotations

import json
import re

import pytest
from prometheus_client import CollectorRegistry
from tests.operations.rules import DASHBOARDS, alerts, expressions
from tests.servers import ROOT

from fedafd.agent.metrics import AgentMetrics
from fedafd.aggregator.metrics import AggregatorMetrics
from fedafd.control_plane.observed import ControlPlaneMetrics
from fedafd.distiller.metrics import DistillerMetrics
from fedafd.distiller.queries.worker import QueryMetrics
from fedafd.region.metrics import RegionMetrics

_NAME = re.compile(r"\b(?:fedafd|process)_[a-z_]+\b|\bup\b(?=\{)")
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


def exported() -> set[str]:
    """Every series' name that any process exports."""
    registries: list[CollectorRegistry] = [
        each.registry
        for each in (
            ControlPlaneMetrics(),
            AggregatorMetrics().metrics,
            DistillerMetrics(),
            QueryMetrics(),
            RegionMetrics(),
            AgentMetrics(),
        )
    ]
    return {"up"} | {
        family.name + suffix
        for registry in registries
        for family in registry.collect()
        for suffix in _SUFFIXES.get(family.type, ("",))
    }


@pytest.mark.parametrize(("place", "expression"), list(expressions()))
def test_every_metric_that_is_named_is_exported(place: str, expression: str) -> None:
    names = set(_NAME.findall(expression))
    assert names, f"{place} names no metric of ours"
    assert names <= exported(), f"{place} names {names - exported()}"
    for opening, closing in ("()", "{}", "[]"):
        assert expression.count(opening) == expression.count(closing), place
    for matcher in re.findall(r"\{([^}]*)\}", expression):
        for part in re.split(r",\s*", matcher):
            assert re.fullmatch(r'[a-z_]+(=|!=|=~|!~)"[^"]*"', part), f"{place}: {part}"


def test_every_alert_has_its_section_with_meaning_look_and_do() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    sections = {part.split("\n", 1)[0].strip(): part for part in runbook.split("\n## ")[1:]}
    assert set(sections) == {rule["alert"] for rule in alerts()}
    for rule in alerts():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"
        for word in ("**Meaning.**", "**Look.**", "**Do.**"):
            assert word in sections[rule["alert"]], rule["alert"]


def test_dashboards_are_told_apart_and_their_panels_do_not_overlap() -> None:
    boards = [json.loads(path.read_text(encoding="utf-8")) for path in DASHBOARDS]
    assert len({board["uid"] for board in boards}) == len({board["title"] for board in boards}) == len(boards) == 2
    for board in boards:
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            place = panel["gridPos"]
            cells = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
            assert not cells & taken, panel["title"]
            assert place["x"] + place["w"] <= 24
            taken |= cells


def test_every_metric_of_ours_is_documented() -> None:
    text = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    ours = {name.removesuffix("_bucket") for name in exported() if name.startswith("fedafd_")}
    missing = {name for name in ours if not name.endswith(("_sum", "_count")) and f"`{name}" not in text}
    assert not missing
