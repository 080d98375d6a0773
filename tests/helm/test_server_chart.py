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
    dotted,
    environment,
    helm,
    merged,
    notes,
    render,
    template,
)

from fedafd.aggregator.settings import AggregatorSettings
from fedafd.control_plane.settings import ControlPlaneSettings
from fedafd.distiller.settings import DistillerSettings

SECRET = "a secret of enough characters"

PROCESSES: dict[str, tuple[str, type[BaseSettings]]] = {
    "control-plane": ("FEDAFD_CONTROL_PLANE_", ControlPlaneSettings),
    "aggregator": ("FEDAFD_AGGREGATOR_", AggregatorSettings),
    "distiller": ("FEDAFD_DISTILLER_", DistillerSettings),
}
VALUE = {"control-plane": "controlPlane", "aggregator": "aggregator", "distiller": "distiller"}
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
    expected |= {"DATABASE_URL": "postgres"} if process != "distiller" else {}
    expected |= {"ADMIN_KEY": "keys"} if process == "control-plane" else {"INTERNAL_TOKEN": "keys"}
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


def test_nothing_is_generated_where_everything_is_given() -> None:
    assert render(SERVER, EXTERNAL).of("Secret") == []


# --- migration -------------------------------------------------------------------------------------------------------
def test_migration_runs_before_install_and_upgrade() -> None:
    job = render(SERVER, EXTERNAL).one("Job", "fed-fedafd-migration")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"][:2] == ["fedafd", "migrate"]
    assert container["image"] == "fedafd/control-plane:0.1.0"
    assert environment(container)["FEDAFD_DATABASE_URL"]["secretKeyRef"] == {"name": "postgres", "key": "url"}


def test_at_a_trials_first_install_migration_comes_with_the_database() -> None:
    manifests = render(SERVER, TRIAL)
    assert "annotations" not in manifests.one("Job", "fed-fedafd-first-migration")["metadata"]
    assert manifests.find("Job", "fed-fedafd-migration") is None


@pytest.mark.parametrize("process", ["control-plane", "aggregator"])
def test_pods_wait_for_the_schema(process: str) -> None:
    pod = render(SERVER, EXTERNAL).one("Deployment", f"fed-fedafd-{process}")["spec"]["template"]["spec"]
    (waiting,) = pod["initContainers"]
    assert "fedafd migrate current" in waiting["command"][-1]


def test_migration_can_be_left_to_the_operator() -> None:
    assert render(SERVER, external(migration={"enabled": False})).of("Job") == []


# --- scaling ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("process", ["control-plane", "aggregator"])
def test_replicas_or_autoscaling(process: str) -> None:
    name, value = f"fed-fedafd-{process}", VALUE[process]
    fixed = render(SERVER, external(**{value: {"replicas": 5}}))
    assert fixed.one("Deployment", name)["spec"]["replicas"] == 5
    assert fixed.of("HorizontalPodAutoscaler") == []
    scaled = render(SERVER, external(**{value: {"autoscaling": {"enabled": True, "maxReplicas": 9}}}))
    assert "replicas" not in scaled.one("Deployment", name)["spec"]
    scaler = scaled.one("HorizontalPodAutoscaler", name)["spec"]
    assert (scaler["scaleTargetRef"]["name"], scaler["minReplicas"], scaler["maxReplicas"]) == (name, 2, 9)


@pytest.mark.parametrize("process", ["control-plane", "aggregator"])
def test_disruption_budget_never_blocks_a_drain(process: str) -> None:
    budget = render(SERVER, EXTERNAL).one("PodDisruptionBudget", f"fed-fedafd-{process}")["spec"]
    assert budget["maxUnavailable"] == 1 and "minAvailable" not in budget
    off = render(SERVER, external(**{VALUE[process]: {"podDisruptionBudget": {"enabled": False}}}))
    assert off.find("PodDisruptionBudget", f"fed-fedafd-{process}") is None


def test_rollouts_of_what_is_called_lose_no_pod() -> None:
    for process in ("control-plane", "aggregator"):
        spec = render(SERVER, EXTERNAL).one("Deployment", f"fed-fedafd-{process}")["spec"]
        assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
        (container,) = spec["template"]["spec"]["containers"]
        assert container["lifecycle"]["preStop"] == {"sleep": {"seconds": 5}}


def test_distiller_scales_on_the_celery_queue_with_keda() -> None:
    from fedafd.messaging.broker_queue import QUEUE

    keda = {"redisAddress": "redis:6379", "listLength": 2, "enableTLS": True}
    manifests = render(SERVER, external(distiller={"autoscaling": {"mode": "keda", "maxReplicas": 8, "keda": keda}}))
    spec = manifests.one("ScaledObject", "fed-fedafd-distiller")["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (1, 8)
    (trigger,) = spec["triggers"]
    assert trigger["metadata"] == {
        "address": "redis:6379",
        "listName": QUEUE,
        "listLength": "2",
        "enableTLS": "true",
    }
    assert "replicas" not in manifests.one("Deployment", "fed-fedafd-distiller")["spec"]
    (reference,) = manifests.one("TriggerAuthentication", "fed-fedafd-distiller")["spec"]["secretTargetRef"]
    assert reference == {"parameter": "password", "name": "redis", "key": "password"}


def test_keda_needs_to_know_where_redis_is() -> None:
    with pytest.raises(RefusedError, match="redisAddress"):
        render(SERVER, external(distiller={"autoscaling": {"mode": "keda"}}))


def test_distiller_scales_on_cpu() -> None:
    manifests = render(SERVER, external(distiller={"autoscaling": {"mode": "cpu"}}))
    assert manifests.one("HorizontalPodAutoscaler", "fed-fedafd-distiller")
    assert manifests.of("ScaledObject") == []


def test_a_gpu_is_asked_for_by_the_name_of_its_plugin() -> None:
    values = external(
        distiller={
            "gpu": {"count": 2, "resourceName": "amd.com/gpu"},
            "runtimeClassName": "gpu",
            "nodeSelector": {"gpu": "yes"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
        }
    )
    pod = render(SERVER, values).one("Deployment", "fed-fedafd-distiller")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["amd.com/gpu"] == 2
    assert container["resources"]["limits"]["memory"] == "8Gi"
    assert pod["runtimeClassName"] == "gpu" and pod["nodeSelector"] == {"gpu": "yes"}
    assert pod["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    without = render(SERVER, EXTERNAL).container("Deployment", "fed-fedafd-distiller")
    assert without["resources"]["limits"].keys() == {"cpu", "memory"}


def test_a_distiller_uses_as_many_threads_as_it_may_use_cores() -> None:
    container = render(SERVER, EXTERNAL).container("Deployment", "fed-fedafd-distiller")
    assert environment(container)["OMP_NUM_THREADS"]["resourceFieldRef"]["resource"] == "limits.cpu"


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize(
    ("value", "given", "field"),
    [
        ("nodeSelector", {"pool": "a"}, "nodeSelector"),
        ("tolerations", [{"key": "a", "operator": "Exists"}], "tolerations"),
        ("affinity", {"podAffinity": {}}, "affinity"),
        ("topologySpreadConstraints", [{"topologyKey": "zone"}], "topologySpreadConstraints"),
        ("priorityClassName", "high", "priorityClassName"),
        ("terminationGracePeriodSeconds", 77, "terminationGracePeriodSeconds"),
    ],
)
def test_pods_are_scheduled_as_told(process: str, value: str, given: object, field: str) -> None:
    values = external(**dotted(f"{VALUE[process]}.{value}", given))
    pod = render(SERVER, values).one("Deployment", f"fed-fedafd-{process}")["spec"]["template"]["spec"]
    assert pod[field] == given


@pytest.mark.parametrize("process", PROCESSES)
def test_more_environment_annotations_and_resources(process: str) -> None:
    extra = {"name": "HTTPS_PROXY", "value": "http://proxy:3128"}
    resources = {"limits": {"cpu": "3", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}
    more = {"extraEnv": [extra], "podAnnotations": {"team": "ml"}, "resources": resources}
    pod = render(SERVER, external(**{VALUE[process]: more})).one("Deployment", f"fed-fedafd-{process}")["spec"][
        "template"
    ]
    (container,) = pod["spec"]["containers"]
    assert extra in container["env"]
    assert pod["metadata"]["annotations"]["team"] == "ml"
    assert container["resources"] == resources


# --- probes ----------------------------------------------------------------------------------------------------------
def test_probes_speak_the_protocol() -> None:
    manifests = render(SERVER, EXTERNAL)
    rest = manifests.container("Deployment", "fed-fedafd-control-plane")
    assert rest["readinessProbe"]["httpGet"] == {"path": "/readyz?serving=true", "port": "http"}
    assert rest["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    grpc = manifests.container("Deployment", "fed-fedafd-aggregator")
    assert grpc["readinessProbe"]["grpc"] == {"port": 7445}, "kubelets speak no TLS"
    # A database that is away must not restart the aggregators.
    assert grpc["livenessProbe"]["grpc"] == grpc["startupProbe"]["grpc"] == {"port": 7445, "service": "liveness"}
    off = render(SERVER, external(aggregator={"tls": {"mode": "off"}}))
    assert off.container("Deployment", "fed-fedafd-aggregator")["readinessProbe"]["grpc"] == {"port": 7443}


def test_with_tls_the_image_itself_asks_since_the_kubelet_cannot() -> None:
    grpc = render(SERVER, external(aggregator={"tls": MUTUAL_TLS})).container("Deployment", "fed-fedafd-aggregator")
    for probe, service in (("livenessProbe", "liveness"), ("readinessProbe", "")):
        command = grpc[probe]["exec"]["command"]
        assert command[:2] == ["fedafd", "health"] and command[-1] == f"grpcs://127.0.0.1:7443/{service}"
        assert "--certificate" in command and "fed-fedafd-aggregator" in command


# --- TLS -------------------------------------------------------------------------------------------------------------
def test_tls_reaches_the_aggregator_and_those_who_call_it() -> None:
    manifests = render(
        SERVER, external(aggregator={"tls": {"existingSecret": "server-tls", "serverName": "agg.example"}})
    )
    given = settings_of(manifests, "aggregator")
    assert given["FEDAFD_AGGREGATOR_TLS_KEY"] == "/etc/fedafd/tls/tls.key"
    assert "FEDAFD_AGGREGATOR_TLS_CLIENT_AUTHORITIES" not in given
    caller = settings_of(manifests, "distiller")
    assert caller["FEDAFD_DISTILLER_TLS__SERVER_NAME"] == "agg.example"
    assert caller["FEDAFD_DISTILLER_TLS__AUTHORITIES"] == "/etc/fedafd/caller-tls/ca.crt"
    pod = manifests.one("Deployment", "fed-fedafd-distiller")["spec"]["template"]["spec"]
    (volume,) = [each for each in pod["volumes"] if each["name"] == "caller-tls"]
    (source,) = volume["projected"]["sources"]
    assert source["secret"]["items"] == [{"key": "ca.crt", "path": "ca.crt"}], "the key must stay with the aggregator"


def test_with_public_authorities_callers_need_no_file() -> None:
    manifests = render(SERVER, external(aggregator={"tls": {"existingSecret": "server-tls", "caKey": ""}}))
    assert settings_of(manifests, "distiller")["FEDAFD_DISTILLER_TLS__SERVER_NAME"] == "fed-fedafd-aggregator"
    pod = manifests.one("Deployment", "fed-fedafd-distiller")["spec"]["template"]["spec"]
    assert "caller-tls" not in {volume["name"] for volume in pod["volumes"]}


def test_mutual_tls_needs_a_certificate_for_the_distillers() -> None:
    with pytest.raises(RefusedError, match="clientSecret"):
        render(SERVER, external(aggregator={"tls": {"existingSecret": "a", "clientAuthoritiesSecret": "b"}}))
    manifests = render(SERVER, external(aggregator={"tls": MUTUAL_TLS}))
    path = "/etc/fedafd/client-authorities/ca.crt"
    assert settings_of(manifests, "aggregator")["FEDAFD_AGGREGATOR_TLS_CLIENT_AUTHORITIES"] == path
    assert settings_of(manifests, "distiller")["FEDAFD_DISTILLER_TLS__KEY"] == "/etc/fedafd/caller-tls/tls.key"


def test_by_default_the_aggregator_has_tls_of_its_own_and_nobody_needs_a_file() -> None:
    manifests = render(SERVER, EXTERNAL)
    assert not [name for process in PROCESSES for name in settings_of(manifests, process) if "TLS" in name]
    assert not [name for process in PROCESSES for name in settings_of(manifests, process) if "PLAINTEXT" in name]
    assert settings_of(manifests, "control-plane")["FEDAFD_CONTROL_PLANE_NAME_AUTHORITY"] == "true"
    assert settings_of(manifests, "aggregator")["FEDAFD_AGGREGATOR_HEALTH_LISTEN"] == "0.0.0.0:7445"
    service = manifests.one("Service", "fed-fedafd-aggregator")["spec"]
    assert service["ports"][0]["appProtocol"] == "https"


INGRESS = {"grpc": {"enabled": True, "host": "h.example", "tlsSecret": "tls"}}
GATEWAY = {"enabled": True, "parentRefs": [{"name": "public"}]}


@pytest.mark.parametrize(
    "front", [{"ingress": INGRESS}, {"gateway": GATEWAY}, {"aggregator": {"tls": {"mode": "off"}}}]
)
def test_where_tls_ends_in_front_plain_text_is_asked_for_on_both_sides(front: dict[str, Any]) -> None:
    manifests = render(SERVER, external(**front))
    assert settings_of(manifests, "aggregator")["FEDAFD_AGGREGATOR_PLAINTEXT"] == "true"
    assert settings_of(manifests, "distiller")["FEDAFD_DISTILLER_PLAINTEXT"] == "true"
    assert settings_of(manifests, "control-plane")["FEDAFD_CONTROL_PLANE_NAME_AUTHORITY"] == "false"
    own = render(SERVER, merged(external(**front), {"aggregator": {"tls": {"mode": "own"}}}))
    assert "FEDAFD_AGGREGATOR_PLAINTEXT" not in settings_of(own, "aggregator")


# --- ways in ---------------------------------------------------------------------------------------------------------
def test_ingress_for_rest_and_for_grpc() -> None:
    values = external(
        ingress={
            "rest": {"enabled": True, "host": "rest.example", "className": "nginx", "tlsSecret": "a", "paths": ["/v1"]},
            "grpc": {"enabled": True, "host": "grpc.example", "tlsSecret": "b", "annotations": {"proto": "GRPC"}},
        }
    )
    manifests = render(SERVER, values)
    rest, grpc = manifests.one("Ingress", "fed-fedafd-rest"), manifests.one("Ingress", "fed-fedafd-grpc")
    assert rest["spec"]["ingressClassName"] == "nginx"
    assert rest["spec"]["tls"] == [{"hosts": ["rest.example"], "secretName": "a"}]
    (path,) = rest["spec"]["rules"][0]["http"]["paths"]
    assert path["path"] == "/v1" and path["backend"]["service"]["name"] == "fed-fedafd-control-plane"
    assert grpc["metadata"]["annotations"] == {"proto": "GRPC"}
    assert grpc["spec"]["tls"] == [{"hosts": ["grpc.example"], "secretName": "b"}]
    assert render(SERVER, EXTERNAL).of("Ingress") == []


@pytest.mark.parametrize(("which", "lacks"), [("rest", "host"), ("grpc", "host"), ("grpc", "tlsSecret")])
def test_an_ingress_without_its_host_or_grpc_without_tls_is_refused(which: str, lacks: str) -> None:
    entry = {"enabled": True, "host": "h.example", "tlsSecret": "tls"} | {lacks: ""}
    with pytest.raises(RefusedError, match=rf"ingress\.{which}\.{lacks}"):
        render(SERVER, external(ingress={which: entry}))


def test_default_paths_keep_metrics_and_probes_inside() -> None:
    values = external(ingress={"rest": {"enabled": True, "host": "h.example"}})
    paths = [each["path"] for each in render(SERVER, values).of("Ingress")[0]["spec"]["rules"][0]["http"]["paths"]]
    assert "/v1" in paths and "/" not in paths and "/metrics" not in paths


def test_an_ingress_leads_agents_to_their_service_only() -> None:
    values = external(ingress={"grpc": {"enabled": True, "host": "h.example", "tlsSecret": "tls"}})
    paths = [each["path"] for each in render(SERVER, values).of("Ingress")[0]["spec"]["rules"][0]["http"]["paths"]]
    assert paths == ["/fedafd.v1.AggregatorService", "/grpc.health.v1.Health/Check"]


def test_gateway_routes_agents_to_their_service_only() -> None:
    parents = [{"name": "public", "namespace": "gateways"}]
    gateway = {"enabled": True, "parentRefs": parents, "restHostnames": ["r.example"], "grpcHostnames": ["g.example"]}
    manifests = render(SERVER, external(gateway=gateway))
    rest, grpc = (
        manifests.one("HTTPRoute", "fed-fedafd-rest")["spec"],
        manifests.one("GRPCRoute", "fed-fedafd-grpc")["spec"],
    )
    assert rest["parentRefs"] == grpc["parentRefs"] == parents
    assert (rest["hostnames"], grpc["hostnames"]) == (["r.example"], ["g.example"])
    assert grpc["rules"][0]["matches"] == [
        {"method": {"service": "fedafd.v1.AggregatorService"}},
        {"method": {"service": "grpc.health.v1.Health", "method": "Check"}},
    ]
    with pytest.raises(RefusedError, match=r"gateway\.parentRefs"):
        render(SERVER, external(gateway={"enabled": True}))


@pytest.mark.parametrize(("process", "port"), [("control-plane", 80), ("aggregator", 7443)])
def test_services_can_be_of_another_type(process: str, port: int) -> None:
    service = render(SERVER, EXTERNAL).one("Service", f"fed-fedafd-{process}")["spec"]
    assert (service["type"], service["ports"][0]["port"]) == ("ClusterIP", port)
    other = {"service": {"type": "LoadBalancer", "port": 443, "annotations": {"internal": "true"}}}
    manifests = render(SERVER, external(**{VALUE[process]: other}))
    found = manifests.one("Service", f"fed-fedafd-{process}")
    assert (found["spec"]["type"], found["spec"]["ports"][0]["port"]) == ("LoadBalancer", 443)
    assert found["metadata"]["annotations"] == {"internal": "true"}


# --- network policies ------------------------------------------------------------------------------------------------
def egress_ports(manifests: Manifests, policy: str) -> set[int | str]:
    spec = manifests.one("NetworkPolicy", f"fed-fedafd-{policy}")["spec"]
    return {port["port"] for rule in spec.get("egress", []) for port in rule["ports"]}


def test_each_process_reaches_what_it_needs_and_no_more() -> None:
    values = external(database={"port": 5433}, redis={"port": 6380}, objectStore={"port": 9443})
    manifests = render(SERVER, values)
    assert egress_ports(manifests, "control-plane") == {5433, 6380, 9443}
    assert egress_ports(manifests, "aggregator") == {5433, 6380, 9443}
    assert egress_ports(manifests, "distiller") == {"grpc", 6380, 9443}, "a distiller never reaches the database"
    assert egress_ports(manifests, "migration") == {5433}
    assert "ingress" not in manifests.one("NetworkPolicy", "fed-fedafd-deny-all")["spec"]


def test_a_trials_stores_are_reached_by_their_users_only() -> None:
    manifests = render(SERVER, TRIAL)
    users = {
        store: {
            peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
            for peer in manifests.one("NetworkPolicy", f"fed-fedafd-{store}")["spec"]["ingress"][0]["from"]
        }
        for store in ("postgresql", "redis", "minio")
    }
    assert users == {
        "postgresql": {"control-plane", "aggregator", "migration"},
        "redis": {"control-plane", "aggregator", "distiller"},
        "minio": {"control-plane", "aggregator", "distiller", "bucket-setup"},
    }
    for store in users:
        assert "egress" not in manifests.one("NetworkPolicy", f"fed-fedafd-{store}")["spec"]


def test_callers_can_be_narrowed() -> None:
    peers = [{"ipBlock": {"cidr": "10.1.0.0/16"}}]
    open_to_all = render(SERVER, EXTERNAL).one("NetworkPolicy", "fed-fedafd-aggregator")["spec"]["ingress"][0]
    assert "from" not in open_to_all
    narrow = render(SERVER, external(networkPolicy={"grpcFrom": peers, "restFrom": peers, "storesTo": peers}))
    grpc = narrow.one("NetworkPolicy", "fed-fedafd-aggregator")["spec"]
    assert peers[0] in grpc["ingress"][0]["from"]
    inner = [
        peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in grpc["ingress"][0]["from"][1:]
    ]
    assert inner == ["distiller", "test"]
    assert all(rule["to"] == peers for rule in grpc["egress"])
    assert peers[0] in narrow.one("NetworkPolicy", "fed-fedafd-control-plane")["spec"]["ingress"][0]["from"]


def test_a_namespace_that_denies_everything_still_lets_the_first_migration_through() -> None:
    policy = render(SERVER, EXTERNAL).one("NetworkPolicy", "fed-fedafd-migration-hook")
    assert policy["metadata"]["annotations"]["helm.sh/hook-weight"] == "-1"
    assert egress_ports(render(SERVER, EXTERNAL), "migration-hook") == {53, 5432}


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
    for process in PROCESSES:
        given = settings_of(manifests, process)
        assert given["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector.monitoring:4318"
        assert (given["OTEL_EXPORTER_OTLP_PROTOCOL"], given["OTEL_TRACES_SAMPLER_ARG"]) == ("http/protobuf", "0.1")
        rules = manifests.one("NetworkPolicy", f"fed-fedafd-{process}")["spec"]["egress"]
        assert {"ports": [{"port": 4318}], "to": [{"podSelector": {}}]} in rules
        assert not [name for name in settings_of(render(SERVER, EXTERNAL), process) if name.startswith("OTEL")]


@pytest.mark.parametrize("process", ["aggregator", "distiller"])
def test_a_process_ends_by_itself_before_the_kubelet_ends_it(process: str) -> None:
    manifests = render(SERVER, external(**{process: {"terminationGracePeriodSeconds": 100}}))
    name = f"{PROCESSES[process][0]}SHUTDOWN_GRACE_SECONDS"
    assert settings_of(manifests, process)[name] == "90"


# --- names, accounts, images -----------------------------------------------------------------------------------------
def test_images_come_from_the_given_registry() -> None:
    image = {"registry": "registry.example/team", "tag": "9", "pullPolicy": "Always", "pullSecrets": [{"name": "key"}]}
    manifests = render(SERVER, external(image=image))
    for process in PROCESSES:
        container = manifests.container("Deployment", f"fed-fedafd-{process}")
        assert container["image"] == f"registry.example/team/fedafd/{process}:9"
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
