"""The chart `fedafd`: migrations, and how each process scales, is scheduled and is rolled out."""

from __future__ import annotations

import pytest
from tests.helm.charts import (
    EXTERNAL,
    SERVER,
    TRIAL,
    RefusedError,
    dotted,
    environment,
    render,
)
from tests.helm.test_server_chart import PROCESSES, VALUE, external


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
