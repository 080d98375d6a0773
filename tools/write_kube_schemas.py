"""Writes tests/helm/schemas from a running cluster's OpenAPI (`kubectl`, KUBECONFIG), so that checks need no network.

Only the kinds that the charts use are kept. Those that are not Kubernetes' own come from custom resource definitions,
so the cluster must have them: Gateway API 1.4.0 (HTTPRoute, GRPCRoute), KEDA 2.18.1 (ScaledObject,
TriggerAuthentication), Prometheus Operator 0.85.0 (ServiceMonitor). Descriptions and status are left out, and objects
with fixed keys refuse others, as a strict API server does.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parent.parent / "tests" / "helm" / "schemas"
DEFINITIONS = "definitions.json"
_REFERENCE = "#/components/schemas/"
KINDS = {
    "v1": ["ConfigMap", "Pod", "Secret", "Service", "ServiceAccount"],
    "apps/v1": ["Deployment", "StatefulSet"],
    "autoscaling/v2": ["HorizontalPodAutoscaler"],
    "batch/v1": ["Job"],
    "networking.k8s.io/v1": ["Ingress", "NetworkPolicy"],
    "policy/v1": ["PodDisruptionBudget"],
    "gateway.networking.k8s.io/v1": ["GRPCRoute", "HTTPRoute"],
    "keda.sh/v1alpha1": ["ScaledObject", "TriggerAuthentication"],
    "monitoring.coreos.com/v1": ["ServiceMonitor"],
}
_KEPT = frozenset(
    {
        *("$ref", "additionalProperties", "allOf", "anyOf", "enum", "items", "maxItems", "maxLength", "maxProperties"),
        *("maximum", "minItems", "minLength", "minProperties", "minimum", "oneOf", "pattern", "properties", "required"),
        *("type", "uniqueItems"),
    }
)
Schema = dict[str, Any]


def openapi(group_version: str) -> dict[str, Schema]:
    """The schemas of one group version. Raises SystemExit where the cluster does not have it."""
    path = f"/openapi/v3/{'api' if group_version == 'v1' else 'apis'}/{group_version}"
    done = subprocess.run(["kubectl", "get", "--raw", path], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{group_version}: the cluster does not tell its schema: {done.stderr.strip()}")
    found: dict[str, Schema] = json.loads(done.stdout)["components"]["schemas"]
    return found


def cleaned(schema: Any) -> Any:
    """The part of an OpenAPI schema that decides, as JSON schema."""
    if isinstance(schema, list):
        return [cleaned(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    out = {key: cleaned(value) for key, value in schema.items() if key in _KEPT and key != "properties"}
    if "$ref" in out:
        return {"$ref": f"#/$defs/{out['$ref'].removeprefix(_REFERENCE)}"}
    if "properties" in schema:
        out["properties"] = {key: cleaned(value) for key, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            out.setdefault("additionalProperties", False)
    return out


def references(schema: Any) -> Iterator[str]:
    """Names of the definitions that a cleaned schema refers to."""
    if isinstance(schema, list):
        for each in schema:
            yield from references(each)
    elif isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"].rpartition("/")[2]
        for value in schema.values():
            yield from references(value)


def find_kind(schemas: dict[str, Schema], group_version: str, kind: str) -> str:
    """Name of the kind's definition. Raises SystemExit where there is none."""
    group, _, version = group_version.rpartition("/")
    wanted = {"group": group, "version": version, "kind": kind}
    for name, schema in schemas.items():
        if wanted in schema.get("x-kubernetes-group-version-kind", []):
            return name
    raise SystemExit(f"{group_version} {kind}: the cluster does not have it; install its custom resource definition")


def file_name(group_version: str, kind: str) -> str:
    """What kubeconform calls the file: kind, first part of the group, version."""
    group, _, version = group_version.rpartition("/")
    return "-".join([kind.lower(), *([group.split(".")[0]] if group else []), version]) + ".json"


def main() -> int:
    """Command line of this tool."""
    definitions: dict[str, Schema] = {}
    files: dict[str, Schema] = {}
    for group_version, kinds in KINDS.items():
        schemas = openapi(group_version)
        for kind in kinds:
            name = find_kind(schemas, group_version, kind)
            files[file_name(group_version, kind)] = {"$ref": f"{DEFINITIONS}#/$defs/{name}"}
            waiting = [name]
            while waiting:
                each = waiting.pop()
                if each not in definitions:
                    definitions[each] = cleaned(schemas[each])
                    waiting += references(definitions[each])
            top = definitions[name]
            top["properties"].pop("status", None)
            top["properties"] |= {"apiVersion": {"enum": [group_version]}, "kind": {"enum": [kind]}}
            top["required"] = sorted({"apiVersion", "kind", "metadata", *top.get("required", [])})
    files[DEFINITIONS] = {"$defs": definitions}
    TARGET.mkdir(parents=True, exist_ok=True)
    for old in TARGET.glob("*.json"):
        old.unlink()
    for name, schema in files.items():
        (TARGET / name).write_text(json.dumps(schema, sort_keys=True, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{len(files) - 1} kinds, {len(definitions)} definitions written to {TARGET}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
