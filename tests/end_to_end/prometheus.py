"""A real Prometheus on the jobs and the rules of deploy/, with a trial's ports in place of Compose's names."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml
from tests.operations.rules import OBSERVABILITY
from tests.servers import ROOT


def write_config(path: Path, targets: Mapping[str, str]) -> None:
    """deploy/compose/prometheus.yml with `targets` (by job) and looks once a second."""
    config = yaml.safe_load((ROOT / "deploy" / "compose" / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = dict.fromkeys(config["global"], "1s")
    config["rule_files"] = [name.replace("/etc/prometheus/fedafd", str(OBSERVABILITY)) for name in config["rule_files"]]
    assert {job["job_name"] for job in config["scrape_configs"]} == set(targets)
    for job in config["scrape_configs"]:
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    path.write_text(yaml.safe_dump(config), encoding="utf-8")


@dataclass
class Prometheus:
    """Its API, and what it said at the moment `at` (Unix seconds), to which queries refer."""

    url: str
    at: float = 0.0
    rules: list[dict[str, Any]] = field(default_factory=list)
    targets: list[dict[str, Any]] = field(default_factory=list)

    def ask(self, path: str, **parameters: str | float) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30).json()
        assert answer["status"] == "success", answer
        assert not answer.get("warnings"), answer
        return answer["data"]

    def samples(self, expression: str) -> list[float]:
        """Values of the expression's series that are numbers, at the moment that was noted; now if none was."""
        result = self.ask("query", query=expression, **({"time": self.at} if self.at else {}))["result"]
        return [value for each in result if not math.isnan(value := float(each["value"][1]))]

    def note(self, expression: str) -> bool:
        """Answer as of now from here on, and keep what it says about rules and targets. False, for another try, while
        the expression has no samples or a target is not up."""
        self.at = time.time()
        self.rules = [rule for group in self.ask("rules")["groups"] for rule in group["rules"]]
        self.targets = self.ask("targets")["activeTargets"]
        return bool(self.samples(expression)) and all(target["health"] == "up" for target in self.targets)
