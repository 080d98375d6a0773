"""What the demo's sites are: their data, their agent.yaml, and the federation they join."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fedafd.domain.errors import DataError
from fedafd.local.supervisor import Supervisor

__all__ = ["DemoSite", "Plan", "prepare_sites"]

_ALREADY_REPORTED = 3
"""Exit code of fedafd.cli.demo_data for an error that it has told."""


@dataclass(frozen=True, kw_only=True)
class DemoSite:
    """One site: its name, kind and data source."""

    name: str
    kind: str
    data: dict[str, Any]
    encoders: dict[str, dict[str, Any]]
    """The site's own, by their key in agent.yaml: empty where it takes the federation's."""

    def agent_config(self, folder: Path, aggregator: str) -> dict[str, Any]:
        """agent.yaml of this site."""
        return {
            "aggregator": aggregator,
            "plaintext": False,
            "kind": self.kind,
            "data": self.data,
            "state_dir": str(folder / f"agent-{self.name}"),
            "threads": 1,
            "share": {"personalized_model": True},
            **self.encoders,
        }

    def write_agent_file(self, folder: Path, aggregator: str) -> Path:
        """Write agent.yaml; returns its path."""
        path = folder / f"{self.name}.yaml"
        path.write_text(yaml.safe_dump(self.agent_config(folder, aggregator)), encoding="utf-8")
        return path


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The federation's configuration, its public set's folder, its sites, and what the data is, in words."""

    federation: dict[str, Any]
    public_set: Path
    sites: list[DemoSite]
    words: str


def prepare_sites(
    supervisor: Supervisor,
    work: Path,
    data: Path | None,
    seed: int,
    encoders: dict[str, dict[str, str]] | None = None,
) -> Plan:
    """Write the public set and describe the sites; in a child, so that this process stays small.

    Raises DataError for data or pretrained weights that cannot be used and a public set that cannot be written.
    """
    plan = work / "plan.json"
    choices = {"work": str(work), "seed": seed, "data": str(data) if data else None, "encoders": encoders}
    command = [sys.executable, "-m", "fedafd.cli.demo_data", json.dumps(choices)]
    child = supervisor.start("data", command, {}, may_end=True)
    while child.process.poll() is None:
        time.sleep(0.05)
    if child.process.returncode == _ALREADY_REPORTED:
        raise DataError(child.log.read_text(encoding="utf-8", errors="replace").strip())
    child.check()
    described = json.loads(plan.read_text(encoding="utf-8"))
    sites = [DemoSite(**site) for site in described["sites"]]
    return Plan(
        federation=described["federation"], public_set=work / "public-set", sites=sites, words=described["words"]
    )
