"""Each switch of the chart `fedafd` does what its comment says, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic_settings import BaseSettings
from tests.helm.charts import (
    CHARTS,
    EXTERNAL,
    SERVER,
    TRIAL,
    Manifests,
    RefusedError,
    Values,
    environment,
    helm,
    merged,
    notes,
    render,
    template,
)

from fedafd.aggregator import server as aggregator_server
from fedafd.aggregator.settings import AggregatorSettings
from fedafd.control_plane.settings import ControlPlaneSettings
from fedafd.distiller import shutdown as distiller_shutdown
from fedafd.distiller.queries.settings import QueriesSettings
from fedafd.distiller.settings import DistillerSettings

SECRET = "a secret of enough characters"

PROCESSES: dict[str, tuple[str, type[BaseSettings]]] = {
    "control-plane": ("FEDAFD_CONTROL_PLANE_", ControlPlaneSettings),
    "aggregator": ("FEDAFD_AGGREGATOR_", AggregatorSettings),
    "distiller": ("FEDAFD_DISTILLER_", DistillerSettings),
    "queries": ("FEDAFD_QUERIES_", QueriesSettings),
}
VALUE = {"control-plane": "controlPlane", "aggregator": "aggregator", "distiller": "distiller", "queries": "queries"}
MUTUAL_TLS = {"existingSecret": "server-tls", "clientAuthoritiesSecret": "sites-ca", "clientSecret": "own-tls"}


def external(**values: Any) -> Values:
    return merged(EXTERNAL, values)


def settings_of(manifests: Manifests, process: str) -> dict[str, str]:
    """What the ConfigMap and the Secrets put into a process's environment; secrets as long as they must be."""
    given = dict(manifests.one("ConfigMap", f"fed-fedafd-{process}")["data"])
    for name, value in environment(manifests.container("Deployment", f"fed-fedafd-{process}")).items():
        given[name] = value if isinstance(value, str) else SECRET
    return given


# --- what must be given ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("auth", "auth.existingSecret"),
        ("database", "database.existingSecret"),
        ("redis", "redis.existingSecret"),
        ("objectStore", "objectStore.existingSecret"),
    ],
)
def test_nothing_has_a_default_password(missing: str, says: str) -> None:
    values = {key: value for key, value in EXTERNAL.items() if key != missing}
    if missing == "objectStore":
        values[missing] = {"endpoint": "s3:443"}
    with pytest.raises(RefusedError, match=re.escape(says)):
        render(SERVER, values)


def test_an_s3_endpoint_is_needed() -> None:
    with pytest.raises(RefusedError, match=r"objectStore\.endpoint"):
        render(SERVER, external(objectStore={"endpoint": ""}))


@pytest.mark.parametrize("store", ["database", "redis", "objectStore"])
def test_a_store_is_given_or_made_but_not_both(store: str) -> None:
    with pytest.raises(RefusedError, match=store):
        render(SERVER, external(**{store: {"trial": {"enabled": True}}}))


# --- settings reach the processes ------------------------------------------------------------------------------------
@pytest.mark.parametrize("values", [EXTERNAL, TRIAL, external(aggregator={"tls": MUTUAL_TLS})])
@pytest.mark.parametrize("process", PROCESSES)
def test_every_variable_is_a_setting_of_its_process(
    process: str, values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix, settings = PROCESSES[process]
    given = {
        name: value for name, value in settings_of(render(SERVER, values), process).items() if name.startswith(prefix)
    }
    assert {name.removeprefix(prefix).split("__")[0].lower() for name in given} <= settings.model_fields.keys()
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings()


@pytest.mark.parametrize("process", PROCESSES)
def test_a_process_gets_the_secrets_that_it_needs_and_no_others(process: str) -> None:
    container = render(SERVER, EXTERNAL).container("Deployment", f"fed-fedafd-{process}")
    found = {
        name.removeprefix(PROCESSES[process][0]): value["secretKeyRef"]["name"]
        for name, value in environment(container).items()
        if isinstance(value, Mapping) and "secretKeyRef" in value
    }
    expected = {"REDIS_URL": "redis", "STORE__ACCESS_KEY": "s3", "STORE__SECRET_KEY": "s3"}
    expected |= {"DATABASE_URL": "postgres"} if process in ("control-plane", "aggregator") else {}
    expected |= {"ADMIN_KEY": "keys"} if process == "control-plane" else {}
    expected |= {"INTERNAL_TOKEN": "keys"} if process in ("aggregator", "distiller") else {}
    assert found == expected


def test_keys_of_existing_secrets_can_be_named() -> None:
    values = external(
        auth={"adminKeyKey": "first", "internalTokenKey": "inner"},
        database={"urlKey": "uri"},
        redis={"urlKey": "address"},
        objectStore={"accessKeyKey": "id", "secretKeyKey": "secret"},
    )
    manifests = render(SERVER, values)
    keys = {
        value["secretKeyRef"]["key"]
        for process in PROCESSES
        for value in environment(manifests.container("Deployment", f"fed-fedafd-{process}")).values()
        if isinstance(value, Mapping) and "secretKeyRef" in value
    }
    assert keys == {"first", "inner", "uri", "address", "id", "secret"}


def test_each_process_may_have_an_access_key_of_its_own() -> None:
    values = external(objectStore={"existingSecret": ""}) | {
        value: {"objectStoreSecret": f"s3-{process}"} for process, value in VALUE.items()
    }
    manifests = render(SERVER, values)
    for process, (prefix, _) in PROCESSES.items():
        found = environment(manifests.container("Deployment", f"fed-fedafd-{process}"))
        assert found[f"{prefix}STORE__SECRET_KEY"]["secretKeyRef"]["name"] == f"s3-{process}"


def test_the_store_is_described_by_its_values() -> None:
    values = external(objectStore={"bucket": "lungs", "region": "eu-central-1", "secure": False, "endpoint": "s3:9000"})
    for process, (prefix, _) in PROCESSES.items():
        given = settings_of(render(SERVER, values), process)
        assert {name.removeprefix(f"{prefix}STORE__"): v for name, v in given.items() if "STORE__" in name} == {
            "URL": "s3://lungs",
            "ENDPOINT": "s3:9000",
            "REGION": "eu-central-1",
            "SECURE": "false",
            "ACCESS_KEY": SECRET,
            "SECRET_KEY": SECRET,
        }


@pytest.mark.parametrize("process", PROCESSES)
def test_a_changed_setting_rolls_its_pods_and_only_them(process: str) -> None:
    before, after = render(SERVER, EXTERNAL), render(SERVER, external(**{VALUE[process]: {"logLevel": "debug"}}))
    changed = {each for each in PROCESSES if _checksum(before, each) != _checksum(after, each)}
    assert changed == {process}


def _checksum(manifests: Manifests, process: str) -> str:
    pod = manifests.one("Deployment", f"fed-fedafd-{process}")["spec"]["template"]
    return str(pod["metadata"]["annotations"]["checksum/config"])


# --- trial stores ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("store", "workload", "holds"),
    [
        ("database", "postgresql", {"postgres-password", "database-url"}),
        ("redis", "redis", {"redis-password", "redis-url"}),
        (
            "objectStore",
            "minio",
            {"minio-root-user", "minio-root-password"}
            | {f"{process}-{half}-key" for process in PROCESSES for half in ("access", "secret")},
        ),
    ],
)
def test_a_trial_store_brings_its_pod_volume_and_random_secrets(store: str, workload: str, holds: set[str]) -> None:
    values = external(
        **{store: {"existingSecret": "", "trial": {"enabled": True, "size": "3Gi", "storageClass": "fast"}}}
    )
    manifests = render(SERVER, values)
    (claim,) = manifests.one("StatefulSet", f"fed-fedafd-{workload}")["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["spec"]["resources"] == {"requests": {"storage": "3Gi"}}
    assert manifests.one("Secret", "fed-fedafd-generated")["stringData"].keys() == holds
    assert manifests.find("StatefulSet", f"fed-fedafd-{workload}") and manifests.find(
        "Service", f"fed-fedafd-{workload}"
    )
    assert render(SERVER, EXTERNAL).of("StatefulSet") == []


def test_generated_secrets_are_long_and_differ_each_time() -> None:
    first, second = (
        Manifests(helm("template", "fed", str(CHARTS / SERVER), "--kube-version", "1.34.0", values=TRIAL)).one(
            "Secret", "fed-fedafd-generated"
        )["stringData"]
        for _ in range(2)
    )
    random = {key for key in first if not key.endswith("-access-key") and key != "minio-root-user"}
    assert all(len(first[key]) >= 40 and first[key] != second[key] for key in random)


def test_generated_secrets_stay_when_the_release_goes_as_they_open_what_its_database_holds() -> None:
    (secret,) = render(SERVER, TRIAL).of("Secret")
    assert secret["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_nothing_is_generated_where_everything_is_given() -> None:
    assert render(SERVER, EXTERNAL).of("Secret") == []


# --- observability ---------------------------------------------------------------------------------------------------
def test_service_monitors_find_the_metrics_ports() -> None:
    monitor = {"enabled": True, "labels": {"release": "prometheus"}, "interval": "10s"}
    manifests = render(SERVER, external(metrics={"serviceMonitor": monitor}))
    services = manifests.of("Service")
    for process in PROCESSES:
        found = manifests.one("ServiceMonitor", f"fed-fedafd-{process}")
        assert found["metadata"]["labels"]["release"] == "prometheus"
        wanted, (endpoint,) = found["spec"]["selector"]["matchLabels"], found["spec"]["endpoints"]
        (service,) = [each for each in services if wanted.items() <= each["metadata"]["labels"].items()]
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
        assert endpoint["interval"] == "10s"
        assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": f"fedafd-{process}"}]
    assert render(SERVER, EXTERNAL).of("ServiceMonitor") == []


def test_metrics_can_be_switched_off() -> None:
    manifests = render(SERVER, external(metrics={"enabled": False}))
    assert not [name for process in PROCESSES for name in settings_of(manifests, process) if "METRICS" in name]
    assert not [item for item in manifests.of("Service") if item["metadata"]["name"].endswith("-metrics")]


def test_a_distillers_metrics_can_be_read_by_the_cluster() -> None:
    manifests = render(SERVER, EXTERNAL)
    (rule,) = manifests.one("NetworkPolicy", "fed-fedafd-distiller")["spec"]["ingress"]
    assert rule == {"ports": [{"port": "metrics"}], "from": [{"namespaceSelector": {}}]}
    off = render(SERVER, external(metrics={"enabled": False}))
    assert "ingress" not in off.one("NetworkPolicy", "fed-fedafd-distiller")["spec"]
    assert "livenessProbe" not in off.container("Deployment", "fed-fedafd-distiller")


def test_traces_go_to_the_collector_through_its_port() -> None:
    tracing = {
        "endpoint": "http://collector.monitoring:4318",
        "sampledShare": 0.1,
        "collectorTo": [{"podSelector": {}}],
    }
    manifests = render(SERVER, external(tracing=tracing))
    for process in set(PROCESSES) - {"queries"}:  # a query is no part of a round, and is not traced
        given = settings_of(manifests, process)
        assert given["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector.monitoring:4318"
        assert (given["OTEL_EXPORTER_OTLP_PROTOCOL"], given["OTEL_TRACES_SAMPLER_ARG"]) == ("http/protobuf", "0.1")
        rules = manifests.one("NetworkPolicy", f"fed-fedafd-{process}")["spec"]["egress"]
        assert {"ports": [{"port": 4318}], "to": [{"podSelector": {}}]} in rules
        assert not [name for name in settings_of(render(SERVER, EXTERNAL), process) if name.startswith("OTEL")]


@pytest.mark.parametrize("granted", [None, 100], ids=["as shipped", "as set"])
@pytest.mark.parametrize(
    ("process", "hard_end"),
    [("aggregator", aggregator_server.HARD_END_SECONDS), ("distiller", distiller_shutdown.HARD_END_SECONDS)],
)
def test_a_process_ends_by_itself_before_the_kubelet_ends_it(
    process: str, hard_end: float, granted: int | None
) -> None:
    changes = {} if granted is None else {process: {"terminationGracePeriodSeconds": granted}}
    manifests = render(SERVER, external(**changes))
    grace = float(settings_of(manifests, process)[f"{PROCESSES[process][0]}SHUTDOWN_GRACE_SECONDS"])
    pod = manifests.one("Deployment", f"fed-fedafd-{process}")["spec"]["template"]["spec"]
    pause = pod["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    limit = pod["terminationGracePeriodSeconds"]
    assert granted in (None, limit)
    assert grace >= limit - 10
    assert pause + grace + hard_end < limit


# --- names, accounts, images -----------------------------------------------------------------------------------------
def test_images_come_from_the_given_registry() -> None:
    image = {"registry": "registry.example/team", "tag": "9", "pullPolicy": "Always", "pullSecrets": [{"name": "key"}]}
    manifests = render(SERVER, external(image=image))
    for process in PROCESSES:
        container = manifests.container("Deployment", f"fed-fedafd-{process}")
        name = "distiller" if process == "queries" else process
        assert container["image"] == f"registry.example/team/fedafd/{name}:9"
        assert container["imagePullPolicy"] == "Always"
        pod = manifests.one("Deployment", f"fed-fedafd-{process}")["spec"]["template"]["spec"]
        assert pod["imagePullSecrets"] == [{"name": "key"}]


@pytest.mark.parametrize(
    ("release", "values", "name"),
    [
        ("fed", {}, "fed-fedafd"),
        ("my-fedafd", {}, "my-fedafd"),
        ("fed", {"nameOverride": "other"}, "fed-other"),
        ("fed", {"fullnameOverride": "plain"}, "plain"),
    ],
)
def test_names_of_objects(release: str, values: Values, name: str) -> None:
    assert render(SERVER, merged(EXTERNAL, values), release=release).find("Deployment", f"{name}-aggregator")


def test_the_service_account_has_no_token_and_can_be_your_own() -> None:
    account = render(SERVER, external(serviceAccount={"annotations": {"role": "x"}})).one(
        "ServiceAccount", "fed-fedafd"
    )
    assert account["automountServiceAccountToken"] is False
    assert account["metadata"]["annotations"] == {"role": "x"}
    own = render(SERVER, external(serviceAccount={"create": False, "name": "mine"}))
    assert own.of("ServiceAccount") == []
    pod = own.one("Deployment", "fed-fedafd-aggregator")["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "mine"


def test_common_labels_are_on_everything() -> None:
    for item in render(SERVER, external(commonLabels={"owner": "ml"})).items:
        assert item["metadata"]["labels"]["owner"] == "ml"


# --- helm test -------------------------------------------------------------------------------------------------------
def test_helm_test_asks_rest_with_the_admins_key_and_grpc_for_its_health() -> None:
    pod = render(SERVER, EXTERNAL).one("Pod", "fed-fedafd-test")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    ready, grpc = pod["spec"]["initContainers"]
    assert ready["command"][-1] == "http://fed-fedafd-control-plane:80/readyz"
    assert grpc["command"][-1] == "grpcs://fed-fedafd-aggregator:7443/fedafd.v1.AggregatorService"
    (rest,) = pod["spec"]["containers"]
    assert environment(rest)["FEDAFD_API_KEY"]["secretKeyRef"] == {"name": "keys", "key": "admin-key"}


def test_notes_say_what_to_do_next() -> None:
    text = notes(SERVER, TRIAL)
    for step in (
        "helm test fed",
        "port-forward service/fed-fedafd-control-plane",
        "fedafd client invite",
        "delete pvc",
    ):
        assert step in text
    assert "WARNING" not in text
    assert "https://rest.example" in notes(
        SERVER, external(ingress={"rest": {"enabled": True, "host": "rest.example", "tlsSecret": "tls"}})
    )
    assert "WARNING: the aggregator is reachable" in notes(
        SERVER, external(aggregator={"service": {"type": "LoadBalancer"}, "tls": {"mode": "off"}})
    )
    assert "WARNING: networkPolicy" in notes(SERVER, external(networkPolicy={"enabled": False}))


def test_templates_leave_no_blank_document() -> None:
    assert "null" not in {line.strip() for line in template(SERVER, EXTERNAL).splitlines()}
