"""What must hold for every manifest, whatever the values: schemas, security, references, network policies."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from typing import Any

import pytest
from tests.helm.charts import (
    CHARTS,
    KUBE_VERSION,
    SCHEMAS,
    Manifests,
    containers,
    helm,
    program,
    render,
    selects,
    template,
)
from tests.helm.matrix import CASES

pytestmark = pytest.mark.parametrize(("chart", "values"), [pytest.param(c, v, id=f"{c}: {n}") for c, n, v in CASES])
Values = Mapping[str, Any]
_NEED_NO_POLICY = {"Service", "ServiceAccount", "ConfigMap", "Secret"}


def test_helm_lint_is_content(chart: str, values: Values) -> None:
    helm("lint", "--strict", "--kube-version", KUBE_VERSION, str(CHARTS / chart), values=values)


def test_kubernetes_accepts_every_manifest(chart: str, values: Values) -> None:
    location = f"{SCHEMAS}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json"
    done = subprocess.run(
        [program("kubeconform"), "-strict", "-summary", "-schema-location", location, "-"],
        input=template(chart, values),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Skipped: 0" in done.stdout


def test_every_pod_is_locked_down(chart: str, values: Values) -> None:
    for name, _, spec in render(chart, values).pods():
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] > 0 and isinstance(security["runAsUser"], int), name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["automountServiceAccountToken"] is False, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        for container in containers(spec):
            inner = container["securityContext"]
            assert inner["readOnlyRootFilesystem"] is True, name
            assert inner["allowPrivilegeEscalation"] is False, name
            assert inner["capabilities"] == {"drop": ["ALL"]}, name


def test_every_container_has_bounds_and_a_pinned_image(chart: str, values: Values) -> None:
    for name, _, spec in render(chart, values).pods():
        for container in containers(spec):
            assert container["resources"]["limits"]["memory"], name
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
            image, _, tag = container["image"].rpartition(":")
            assert image and tag not in ("", "latest"), container["image"]
            assert container["imagePullPolicy"] == "IfNotPresent", name


def test_every_object_carries_the_standard_labels(chart: str, values: Values) -> None:
    for item in render(chart, values).items:
        labels = item["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "fedafd" if chart == "fedafd" else "fedafd-agent"
        assert labels["app.kubernetes.io/instance"] == "fed"
        assert labels["app.kubernetes.io/version"] and labels["helm.sh/chart"].startswith(chart)
        assert len(item["metadata"]["name"]) <= 63


def test_selectors_select_their_own_pods_and_no_others(chart: str, values: Values) -> None:
    manifests = render(chart, values)
    pods = {name: labels for name, labels, _ in manifests.pods()}
    for kind in ("Deployment", "StatefulSet"):
        for item in manifests.of(kind):
            own = f"{kind}/{item['metadata']['name']}"
            assert [name for name, labels in pods.items() if selects(item["spec"]["selector"], labels)] == [own]
    for item in manifests.of("Service"):
        matching = [name for name, labels in pods.items() if selects({"matchLabels": item["spec"]["selector"]}, labels)]
        assert len(matching) == 1, item["metadata"]["name"]
    for item in manifests.of("PodDisruptionBudget"):
        assert any(selects(item["spec"]["selector"], labels) for labels in pods.values())


def test_services_name_ports_that_their_pods_have(chart: str, values: Values) -> None:
    manifests = render(chart, values)
    for service in manifests.of("Service"):
        selector = {"matchLabels": service["spec"]["selector"]}
        (spec,) = [spec for _, labels, spec in manifests.pods() if selects(selector, labels)]
        ports = {port["name"] for container in spec["containers"] for port in container.get("ports", [])}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports, service["metadata"]["name"]


def test_references_within_the_release_lead_somewhere(chart: str, values: Values) -> None:
    manifests = render(chart, values)
    generated = {item["metadata"]["name"]: item["stringData"] for item in manifests.of("Secret")}
    configs = {item["metadata"]["name"] for item in manifests.of("ConfigMap")}
    for name, _, spec in manifests.pods():
        mounted = {volume["name"] for volume in spec.get("volumes", [])} | _claims(manifests, name)
        for container in containers(spec):
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= mounted, name
            for source in container.get("envFrom", []):
                assert source["configMapRef"]["name"] in configs, name
            for entry in container.get("env", []):
                secret = entry.get("valueFrom", {}).get("secretKeyRef")
                if secret and secret["name"].startswith("fed"):
                    assert secret["key"] in generated[secret["name"]], (name, secret)


def _claims(manifests: Manifests, pod: str) -> set[str]:
    kind, name = pod.split("/")
    owner = manifests.one(kind, name)["spec"]
    return {claim["metadata"]["name"] for claim in owner.get("volumeClaimTemplates", [])}


def test_no_secret_stands_in_a_config_map_or_an_argument(chart: str, values: Values) -> None:
    manifests = render(chart, values)
    secrets = {value for item in manifests.of("Secret") for value in item["stringData"].values() if len(value) >= 32}
    rest = [item for item in manifests.items if item["kind"] != "Secret"]
    assert not [value for value in secrets if value in str(rest)]


def test_every_pod_is_denied_everything_that_no_policy_allows(chart: str, values: Values) -> None:
    manifests = render(chart, values)
    policies = manifests.of("NetworkPolicy")
    if values.get("networkPolicy", {}).get("enabled") is False:
        assert policies == []
        return
    for name, labels, _ in manifests.pods():
        own = [item["spec"] for item in policies if selects(item["spec"]["podSelector"], labels)]
        assert any({"Ingress", "Egress"} == set(spec["policyTypes"]) for spec in own), name
        assert all(rule.get("ports") for spec in own for rule in [*spec.get("ingress", []), *spec.get("egress", [])])
    for item in policies:
        assert any(selects(item["spec"]["podSelector"], labels) for _, labels, _ in manifests.pods()), item
