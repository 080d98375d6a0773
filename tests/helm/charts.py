"""Renders the charts and finds one's way in what comes out."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from tests.servers import ROOT, required_go_program

CHARTS = ROOT / "helm"
SERVER, AGENT = "fedafd", "fedafd-agent"
KUBE_VERSION = "1.34.0"
# The loader in C is many times faster, and there are hundreds of renderings.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Manifest = dict[str, Any]
Values = dict[str, Any]

TRIAL: Values = yaml.safe_load((CHARTS / SERVER / "values-trial.yaml").read_text(encoding="utf-8"))
EXTERNAL: Values = {
    "auth": {"existingSecret": "keys"},
    "database": {"existingSecret": "postgres"},
    "redis": {"existingSecret": "redis"},
    "objectStore": {"existingSecret": "s3", "endpoint": "s3.example.org:443"},
}
SITE: Values = {
    "aggregator": {"address": "aggregator.example.org:7443"},
    "agent": {"kind": "image", "data": {"adapter": "image-folder", "path": "/data"}},
    "enrolment": {"existingSecret": "invitation"},
}


def program(name: str) -> str:
    """Path of helm or kubeconform; skips the test, or fails it in CI, where it cannot be had."""
    return required_go_program(name)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> Values:
    """`over` on top of `base`, as Helm merges values."""
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        out[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out


def dotted(path: str, value: Any) -> Values:
    """`{"a": {"b": value}}` for `a.b`."""
    for key in reversed(path.split(".")):
        value = {key: value}
    assert isinstance(value, dict)
    return value


class RefusedError(Exception):
    """Helm refused; the message is what it printed."""


def helm(*arguments: str, values: Mapping[str, Any] | None = None) -> str:
    """Run helm with these values on its standard input. Raises RefusedError."""
    command = [program("helm"), *arguments, *(["--values", "-"] if values is not None else [])]
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise RefusedError(done.stderr + done.stdout)
    return done.stdout


@lru_cache(maxsize=256)
def _template(chart: str, values: str, release: str, more: tuple[str, ...]) -> str:
    options = ["--namespace", "trial", "--kube-version", KUBE_VERSION, *more]
    return helm("template", release, str(CHARTS / chart), *options, values=json.loads(values))


def template(chart: str, values: Mapping[str, Any], *more: str, release: str = "fed") -> str:
    """The chart's manifests as text."""
    return _template(chart, json.dumps(values, sort_keys=True), release, more)


def notes(chart: str, values: Mapping[str, Any]) -> str:
    """What `helm install` prints. (helm template leaves it out, so a copy of the chart renders it as a manifest.)"""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(CHARTS / chart, Path(folder) / chart))
        include = f'{{{{ include "{chart}/templates/NOTES.txt" . | nindent 2 }}}}'
        (copy / "templates" / "notes.yaml").write_text(f"kind: Notes\ntext: |{include}\n", encoding="utf-8")
        options = ["--namespace", "trial", "--kube-version", KUBE_VERSION, "--show-only", "templates/notes.yaml"]
        text = yaml.safe_load(helm("template", "fed", str(copy), *options, values=values))["text"]
    assert isinstance(text, str)
    return text


class Manifests:
    """Rendered manifests."""

    def __init__(self, text: str) -> None:
        self.items: list[Manifest] = [item for item in yaml.load_all(text, Loader=_LOADER) if item]

    def of(self, kind: str) -> list[Manifest]:
        return [item for item in self.items if item["kind"] == kind]

    def find(self, kind: str, name: str) -> Manifest | None:
        return next((item for item in self.of(kind) if item["metadata"]["name"] == name), None)

    def one(self, kind: str, name: str) -> Manifest:
        found = self.find(kind, name)
        assert found is not None, f"no {kind} {name}; there are {self.names()}"
        return found

    def names(self) -> list[str]:
        return sorted(f"{item['kind']}/{item['metadata']['name']}" for item in self.items)

    def pods(self) -> Iterator[tuple[str, Manifest, Manifest]]:
        """(name, labels, spec) of each pod that the manifests make."""
        for item in self.items:
            name = f"{item['kind']}/{item['metadata']['name']}"
            if item["kind"] in ("Deployment", "StatefulSet", "Job"):
                pod = item["spec"]["template"]
                yield name, pod["metadata"]["labels"], pod["spec"]
            elif item["kind"] == "Pod":
                yield name, item["metadata"]["labels"], item["spec"]

    def container(self, kind: str, name: str) -> Manifest:
        """The only container of a workload."""
        (found,) = self.one(kind, name)["spec"]["template"]["spec"]["containers"]
        assert isinstance(found, dict)
        return found


def render(chart: str, values: Mapping[str, Any], *more: str, release: str = "fed") -> Manifests:
    """The chart's manifests, parsed."""
    return Manifests(template(chart, values, *more, release=release))


def containers(spec: Manifest) -> list[Manifest]:
    """All containers of a pod."""
    return [*spec.get("initContainers", []), *spec["containers"]]


def environment(container: Manifest) -> dict[str, Any]:
    """A container's own `env`: values, or where they come from."""
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container.get("env", [])}


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector with matchLabels and NotIn expressions selects a pod of these labels."""
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(
        labels.get(each["key"]) not in each["values"] for each in selector.get("matchExpressions", [])
    )


def chart_values(chart: str) -> Values:
    """The chart's default values."""
    loaded = yaml.safe_load((CHARTS / chart / "values.yaml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def chart_version() -> str:
    """The version of the program that the charts install, which is the default tag of its images."""
    return str(yaml.safe_load((CHARTS / SERVER / "Chart.yaml").read_text(encoding="utf-8"))["appVersion"])


SCHEMAS = Path(__file__).resolve().parent / "schemas"
