"""Values: every one is described, every one is in the schema, and a misspelt or wrong one is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from tests.helm.charts import (
    AGENT,
    CHARTS,
    EXTERNAL,
    SCHEMAS,
    SERVER,
    SITE,
    RefusedError,
    chart_values,
    dotted,
    merged,
    program,
    render,
)
from tests.servers import ROOT

BASE = {SERVER: EXTERNAL, AGENT: SITE}


def schema_of(chart: str) -> dict[str, Any]:
    loaded = json.loads((CHARTS / chart / "values.schema.json").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def closed_objects(schema: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Paths of the objects whose keys are fixed."""
    if schema.get("additionalProperties") is False:
        yield path
    for key, value in schema.get("properties", {}).items():
        yield from closed_objects(value, f"{path}.{key}" if path else key)


def every_closed_object() -> list[tuple[str, str]]:
    return [(chart, path) for chart in BASE for path in closed_objects(schema_of(chart))]


@pytest.mark.parametrize(("chart", "path"), every_closed_object())
def test_a_misspelt_value_is_refused(chart: str, path: str) -> None:
    typo = dotted(f"{path}.replicsa" if path else "replicsa", 1)
    with pytest.raises(RefusedError, match="replicsa"):
        render(chart, merged(BASE[chart], typo))


@pytest.mark.parametrize("chart", BASE)
def test_schema_and_values_know_the_same_keys(chart: str) -> None:
    def compare(values: Mapping[str, Any], schema: Mapping[str, Any], path: str) -> None:
        known = schema["properties"].keys() - ({"global"} if not path else set())
        assert known == values.keys(), path
        for key, value in values.items():
            inner = schema["properties"][key]
            if isinstance(value, dict) and "properties" in inner and key != "share":
                compare(value, inner, f"{path}.{key}")

    compare(chart_values(chart), schema_of(chart), "")


@pytest.mark.parametrize(
    ("chart", "path", "wrong"),
    [
        (SERVER, "controlPlane.replicas", "2"),
        (SERVER, "controlPlane.replicas", -1),
        (SERVER, "controlPlane.logLevel", "loud"),
        (SERVER, "controlPlane.service.type", "ExternalName"),
        (SERVER, "controlPlane.resources", {"limit": {"memory": "1Gi"}}),
        (SERVER, "controlPlane.resources", {"limits": {"memory": "1 GB"}}),
        (SERVER, "aggregator.service.port", 70000),
        (SERVER, "aggregator.podDisruptionBudget.maxUnavailable", 0),
        (SERVER, "distiller.device", "gpu"),
        (SERVER, "distiller.gpu.count", 1.5),
        (SERVER, "distiller.autoscaling.mode", "gpu"),
        (SERVER, "distiller.nodeSelector", {"gpu": True}),
        (SERVER, "objectStore.endpoint", "https://s3.example.org"),
        (SERVER, "objectStore.bucket", "My_Bucket"),
        (SERVER, "objectStore.secure", "yes"),
        (SERVER, "image.pullPolicy", "Sometimes"),
        (SERVER, "ingress.rest.paths", ["v1"]),
        (SERVER, "metrics.serviceMonitor.interval", "30"),
        (SERVER, "database.existingSecret", "My Secret"),
        (AGENT, "agent.share.everything", True),
        (AGENT, "agent.device", "tpu"),
        (AGENT, "runAsUser", 0),
        (AGENT, "state.size", "big"),
    ],
)
def test_a_wrong_value_is_refused_by_its_path(chart: str, path: str, wrong: object) -> None:
    with pytest.raises(RefusedError, match=path.split(".")[-1]):
        render(chart, merged(BASE[chart], dotted(path, wrong)))


def test_readmes_are_current() -> None:
    command = [sys.executable, str(ROOT / "tools" / "write_chart_readme.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("chart", BASE)
def test_every_value_stands_in_the_readme_with_its_meaning(chart: str) -> None:
    text = (CHARTS / chart / "README.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) > 20 and all(len(row) == 3 and len(row[2]) > 6 for row in rows)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"spec": {"podSelector": {"matchLabel": {}}}}, "matchLabel"),
        ({"spec": {"policyTypes": "Ingress"}}, "policyTypes"),
        ({"spec": {"podSelector": {}, "egress": [{"ports": [{"prt": 53}]}]}}, "prt"),
        ({"apiVersion": "networking.k8s.io/v2"}, "could not find schema"),
    ],
)
def test_the_kept_schemas_do_refuse(change: Mapping[str, Any], says: str) -> None:
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "a"}}
    manifest = policy | {"spec": {"podSelector": {}}} | dict(change)
    location = f"{SCHEMAS}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json"
    done = subprocess.run(
        [program("kubeconform"), "-strict", "-schema-location", location, "-"],
        input=json.dumps(manifest),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0 and says in done.stdout
