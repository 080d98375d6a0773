"""The alert rules and the dashboards' expressions, as the files have them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import yaml
from tests.servers import ROOT

OBSERVABILITY = ROOT / "deploy" / "observability"
RULES = OBSERVABILITY / "alerts" / "fedafd.yml"
DASHBOARDS = sorted((OBSERVABILITY / "dashboards").glob("*.json"))


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> Iterator[tuple[str, str]]:
    """Each panel's expressions, with the panel's name and the expression's letter."""
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            for target in panel["targets"]:
                yield f"{path.name}: {panel['title']} {target['refId']}", target["expr"]


def variables() -> Iterator[tuple[str, str]]:
    for path in DASHBOARDS:
        for variable in json.loads(path.read_text(encoding="utf-8"))["templating"]["list"]:
            yield f"{path.name}: ${variable['name']}", variable["query"]


def expressions() -> Iterator[tuple[str, str]]:
    yield from ((rule["alert"], rule["expr"]) for rule in alerts())
    yield from panels()
    yield from variables()
