"""Both charts in a real cluster: installed, tested, trained on, broken, upgraded in the middle of a round, removed.

Runs by `make test-helm` only. The tests stand in the order of an installation's life; each goes on where the one before
ended. What they measured lies in benchmark-results/helm-cluster.json afterwards.
"""

from __future__ import annotations

import base64
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.helm.cluster import scenario
from tests.helm.cluster.kubernetes import (
    Namespace,
    Pod,
    Transcript,
    is_ready,
    load_images,
    run,
    told_if_failed,
    wait_until,
)
from tests.helm.cluster.operator_client import Operator
from tests.helm.cluster.scenario import FEDERATION, KINDS, RELEASE, SERVER_PODS, server_values, site_values
from tests.servers import ROOT

from fedafd import GlobalModel, PersonalizedModel

pytestmark = [
    pytest.mark.timeout(2400),
    pytest.mark.skipif(
        not os.environ.get("FEDAFD_TEST_CLUSTER"), reason="needs a cluster: set KUBECONFIG and run `make test-helm`"
    ),
]
GENERATED = f"{RELEASE}-fedafd-generated"
CLAIMS = {f"persistentvolumeclaim/data-{RELEASE}-fedafd-{store}-0" for store in ("postgresql", "redis", "minio")}
CLAIMS |= {f"persistentvolumeclaim/state-{name}-fedafd-agent-0" for name in KINDS}


@dataclass
class World:
    """What the tests share."""

    namespace: Namespace
    transcript: Transcript = field(default_factory=Transcript)
    operator: Operator | None = None

    @property
    def rest(self) -> Operator:
        assert self.operator is not None, "the server side is not installed"
        return self.operator

    def connect(self) -> Operator:
        """An operator with the admin's key of the release as it is now."""
        if self.operator is not None:
            self.operator.close()
        self.operator = Operator.of_release(self.namespace, RELEASE, FEDERATION["name"])
        return self.operator


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    namespace = Namespace(f"fedafd-{uuid.uuid4().hex[:8]}")
    world = World(namespace)
    namespace.create()
    try:
        yield world
    finally:
        world.transcript.write(ROOT / "benchmark-results" / "helm-cluster.json")
        if world.operator is not None:
            world.operator.close()
        namespace.remove_unless_kept()


@pytest.fixture(autouse=True)
def logs_of_a_failure(request: pytest.FixtureRequest, world: World) -> Iterator[None]:
    with told_if_failed(request, world.namespace):
        yield


def test_images_are_loaded(world: World) -> None:
    with world.transcript.step("load the images"):
        load_images(scenario.images())


def test_the_server_side_installs_without_a_restart(world: World) -> None:
    with world.transcript.step(f"helm install fedafd --wait ({SERVER_PODS} pods, migration, bucket and keys)"):
        world.namespace.install(RELEASE, "fedafd", server_values())
        # A rollout takes the old distiller away first (GPUs are scarce), so Helm does not wait for the new one.
        wait_until(lambda: world.namespace.settled(SERVER_PODS), "the readiness of all pods")
    assert not any(world.namespace.restarts().values()), world.namespace.restarts()


def test_helm_test_passes(world: World) -> None:
    with world.transcript.step("helm test fedafd"):
        world.namespace.helm("test", RELEASE)


def test_sites_install_and_enrol(world: World, tmp_path: Path) -> None:
    options = {"num_train": 64, "num_val": 16, "num_test": 32, "seed": 5}
    scenario.write_public_set(scenario.load_public_data("shapes", None, options), tmp_path)
    rest = world.connect()
    tokens = rest.set_up(FEDERATION, tmp_path, KINDS)
    for name, token in tokens.items():
        world.namespace.kubectl("create", "secret", "generic", f"invitation-{name}", f"--from-literal=token={token}")
    with world.transcript.step("helm install fedafd-agent --wait, three times; all enrolled"):
        for name in KINDS:
            world.namespace.install(name, "fedafd-agent", site_values(name, str(world.namespace)))
        wait_until(lambda: set(rest.clients().values()) == {"enrolled"}, "the enrolment of all sites")
    with world.transcript.step("helm test fedafd-agent"):
        world.namespace.helm("test", "images")
    # The token is used up: from now on the agents live on their credential.
    for name in KINDS:
        world.namespace.kubectl("delete", "secret", f"invitation-{name}")


def test_two_rounds_complete_and_their_models_work(world: World, tmp_path: Path) -> None:
    with world.transcript.step("two rounds over REST through a port-forward"):
        for number in world.rest.start_rounds(2):
            answer = world.rest.completed(number)
            states = {each["client"]: each["state"] for each in answer["participations"]}
            assert states == dict.fromkeys(KINDS, "delivered"), answer
    with world.transcript.step("pull a personalized and the global model"):
        world.rest.pull_personalized_model("texts", tmp_path / "texts")
        world.rest.pull_global_model(tmp_path / "global")
    personalized = PersonalizedModel.from_pretrained(tmp_path / "texts")
    ((label, probability),) = personalized.predict(["we saw something red , it is round all over"])
    assert label in personalized.labels and 0 < probability <= 1
    embedded = GlobalModel.from_pretrained(tmp_path / "global").embed_texts(["a red circle"])
    assert embedded.shape == (1, FEDERATION["embedding_dim"])


def test_policies_let_pass_what_is_needed_and_drop_the_rest(world: World) -> None:
    pods = {
        pod["metadata"]["labels"]["app.kubernetes.io/component"]: name for name, pod in world.namespace.pods().items()
    }
    ports = {"postgresql": 5432, "redis": 6379, "minio": 9000, "aggregator": 7443, "aggregator-internal": 7444}
    services = {name: f"{RELEASE}-fedafd-{name}" for name in ports}
    reachable = {
        "control-plane": {"postgresql", "redis", "minio"},
        "aggregator": {"postgresql", "redis", "minio"},
        "distiller": {"redis", "minio", "aggregator-internal"},
        "queries": {"redis", "minio"},
        "agent": {"aggregator"},
    }
    for component, allowed in reachable.items():
        found = {
            name
            for name, service in services.items()
            if name.removesuffix("-internal") != component
            and world.namespace.connects(pods[component], f"{service}:{ports[name]}")
        }
        assert found == allowed, component


def test_pods_run_without_rights(world: World) -> None:
    for component in ("control-plane", "aggregator", "distiller", "queries", "agent"):
        (name, *_) = [
            name
            for name, pod in world.namespace.pods().items()
            if pod["metadata"]["labels"]["app.kubernetes.io/component"] == component
        ]
        script = "id -u; ls /var/run/secrets/kubernetes.io 2>&1; touch /probe 2>&1; grep Seccomp: /proc/1/status"
        text = world.namespace.kubectl("exec", name, "--", "sh", "-c", script)
        assert text.splitlines()[0] == "10001"
        assert "No such file" in text and "Read-only file system" in text and "Seccomp:\t2" in text


def test_every_pod_may_die_in_a_round(world: World) -> None:
    for name, pod in sorted(world.namespace.pods().items()):
        component = pod["metadata"]["labels"]["app.kubernetes.io/component"]
        (number,) = world.rest.start_rounds(1)
        state = world.rest.reaches(number, "preparing" if component == "distiller" else "collecting")
        seconds = _kill(world, name, pod)
        answer = world.rest.completed(number)
        states = {each["client"]: each["state"] for each in answer["participations"]}
        assert states == dict.fromkeys(KINDS, "delivered"), answer
        world.transcript.add(f"{component}: killed while {state}; ready again, and the round completed", seconds)


def _kill(world: World, name: str, pod: Pod) -> float:
    """Kill a pod without grace; seconds until the one that replaces it is ready, like all the others."""
    expected, uid = len(world.namespace.pods()), pod["metadata"]["uid"]
    world.namespace.kubectl("delete", "pod", name, "--wait=false", "--grace-period=0", "--force")

    def replaced() -> bool:
        now = world.namespace.pods().get(name, {"metadata": {"uid": None}})
        return world.namespace.settled(expected) and now["metadata"]["uid"] != uid

    return wait_until(replaced, f"a new pod for {name}")


def test_an_upgrade_in_the_middle_of_a_round_rolls_the_pods_and_keeps_the_secrets(world: World) -> None:
    secrets = world.namespace.secret(GENERATED)
    before = set(world.namespace.pods())
    (number,) = world.rest.start_rounds(1)
    world.rest.reaches(number, "collecting")
    levels = {process: {"logLevel": "debug"} for process in ("controlPlane", "aggregator", "distiller")}
    with world.transcript.step("helm upgrade --wait with changed values while a round is collecting"):
        world.namespace.upgrade(RELEASE, "fedafd", server_values(**levels))
    answer = world.rest.completed(number)
    assert {each["state"] for each in answer["participations"]} == {"delivered"}, answer
    assert world.namespace.secret(GENERATED) == secrets
    wait_until(lambda: world.namespace.settled(SERVER_PODS + len(KINDS)), "the new pods")
    kept = before & set(world.namespace.pods())
    assert not [
        name for name in kept if any(f"-{process}-" in name for process in ("control-plane", "aggregator", "distiller"))
    ]


def test_a_rollback_in_the_middle_of_a_round_is_as_harmless(world: World) -> None:
    (number,) = world.rest.start_rounds(1)
    world.rest.reaches(number, "collecting")
    with world.transcript.step("helm rollback --wait while a round is collecting"):
        world.namespace.helm("rollback", RELEASE, "1", "--wait", "--timeout", "10m")
    world.rest.completed(number)


def test_uninstall_leaves_nothing_but_the_volumes_and_what_opens_them(world: World) -> None:
    before = world.namespace.secret(GENERATED)
    with world.transcript.step("helm uninstall of four releases, until the last pod is gone"):
        for release in (*KINDS, RELEASE):
            world.namespace.helm("uninstall", release, "--wait")
        wait_until(lambda: not world.namespace.get("pods"), "the end of all pods")
    left = CLAIMS | {f"secret/{GENERATED}"}
    wait_until(lambda: world.namespace.what_is_left() == left, "the end of everything but volumes", seconds=60)
    assert world.namespace.secret(GENERATED) == before


def test_installed_again_on_its_volumes_the_federation_goes_on(world: World, tls_secrets: None) -> None:
    tls = {
        "existingSecret": "aggregator-tls",
        "clientAuthoritiesSecret": "aggregator-tls",
        "clientSecret": "client-tls",
    }
    with world.transcript.step("helm install again on the same volumes, this time with mutual TLS at the aggregator"):
        world.namespace.install(RELEASE, "fedafd", server_values(aggregator={"replicas": 1, "tls": tls}))
        world.namespace.helm("test", RELEASE)
        ours = {"tls": {"enabled": True, "caSecret": "aggregator-tls", "clientSecret": "client-tls"}}
        ours["tls"]["serverName"] = f"{RELEASE}-fedafd-aggregator"
        for name in KINDS:
            values = site_values(name, str(world.namespace), enrolment={"existingSecret": ""}, aggregator=ours)
            world.namespace.install(name, "fedafd-agent", values)
        world.namespace.helm("test", "images")
    last = world.rest.last_number
    rest = world.connect()
    assert rest.state(last) == "completed"
    rest.last_number = last
    with world.transcript.step("one more round, over mutual TLS"):
        (number,) = rest.start_rounds(1)
        answer = rest.completed(number)
    assert {each["state"] for each in answer["participations"]} == {"delivered"}, answer


@pytest.fixture(scope="module")
def tls_secrets(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    """An authority, the aggregator's certificate and one for its callers, as Secrets; made by openssl."""
    folder = tmp_path_factory.mktemp("tls")
    name = f"{RELEASE}-fedafd-aggregator"
    _openssl(folder, "req", "-x509", "-days", "2", "-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.crt")
    for role, subject in (("server", name), ("client", "site")):
        extension = folder / f"{role}.ext"
        extension.write_text(f"subjectAltName=DNS:{subject},DNS:{name}.{world.namespace}.svc\n")
        _openssl(folder, "req", "-subj", f"/CN={subject}", "-keyout", f"{role}.key", "-out", f"{role}.csr")
        signed = ["-in", f"{role}.csr", "-out", f"{role}.crt", "-extfile", str(extension), "-days", "2"]
        run("openssl", "x509", "-req", "-CA", f"{folder}/ca.crt", "-CAkey", f"{folder}/ca.key", "-CAcreateserial",
            *[str(folder / each) if each.endswith((".csr", ".crt")) else each for each in signed])  # fmt: skip
    for secret, role in (("aggregator-tls", "server"), ("client-tls", "client")):
        files = {"tls.crt": f"{role}.crt", "tls.key": f"{role}.key", "ca.crt": "ca.crt"}
        world.namespace.kubectl(
            "create",
            "secret",
            "generic",
            secret,
            *(f"--from-file={key}={folder / file}" for key, file in files.items()),
        )


def _openssl(folder: Path, *arguments: str) -> None:
    options = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    paths = [str(folder / each) if each.endswith((".key", ".crt", ".csr")) else each for each in arguments]
    run("openssl", *paths[:1], *options, *paths[1:])


def test_on_stores_of_ones_own_migration_is_a_hook_and_pods_scale(world: World) -> None:
    """A second installation, in a namespace of its own, on PostgreSQL, Redis and S3 that are not the release's."""
    stores = Namespace(f"{world.namespace}-stores")
    try:
        _install_on_other_stores(world, stores)
    finally:
        stores.remove()


def _install_on_other_stores(world: World, stores: Namespace) -> None:
    nothing = {name: {"replicas": 0} for name in ("controlPlane", "aggregator", "distiller", "queries")}
    stores.create()
    stores.install("stores", "fedafd", server_values(networkPolicy={"enabled": False}, **nothing))
    given = {key: base64.b64decode(value).decode() for key, value in stores.secret("stores-fedafd-generated").items()}
    host = f"stores-fedafd-{{}}.{stores}.svc"
    secrets = {
        "keys": {"admin-key": f"fedafd-key.{'own-admin' * 4}", "internal-token": "own-internal-token" * 2},
        "postgres": {"url": given["database-url"].replace("stores-fedafd-postgresql", host.format("postgresql"))},
        "redis": {"url": given["redis-url"].replace("stores-fedafd-redis", host.format("redis"))},
    }
    for process in ("control-plane", "aggregator", "distiller", "queries"):
        pair = {half: given[f"{process}-{half}"] for half in ("access-key", "secret-key")}
        secrets[f"s3-{process}"] = pair
    for name, content in secrets.items():
        literals = [f"--from-literal={key}={value}" for key, value in content.items()]
        world.namespace.kubectl("create", "secret", "generic", f"own-{name}", *literals)
    values = server_values(
        auth={"generate": False, "existingSecret": "own-keys"},
        database={"existingSecret": "own-postgres", "trial": {"enabled": False}},
        redis={"existingSecret": "own-redis", "trial": {"enabled": False}},
        objectStore={
            "trial": {"enabled": False},
            "endpoint": f"{host.format('minio')}:9000",
            "secure": False,
            "port": 9000,
        },
        controlPlane={"objectStoreSecret": "own-s3-control-plane", "autoscaling": {"enabled": True}},
        aggregator={"objectStoreSecret": "own-s3-aggregator", "autoscaling": {"enabled": True}},
        distiller={"objectStoreSecret": "own-s3-distiller", "replicas": 1},
        queries={"objectStoreSecret": "own-s3-queries"},
    )
    with world.transcript.step(
        "helm install on stores of one's own: migration as a hook, autoscaling to two pods each"
    ):
        world.namespace.install("own", "fedafd", values)
        selector = "--selector=app.kubernetes.io/instance=own"
        wait_until(lambda: _ready(world.namespace.get("pods", selector)) == 6, "two pods of each, and the workers")
    assert not world.namespace.get("jobs", selector), "a hook that succeeded is deleted"
    assert len(world.namespace.get("poddisruptionbudgets", selector)) == 2
    world.namespace.helm("test", "own")
    world.namespace.helm("uninstall", "own", "--wait")


def _ready(pods: list[Pod]) -> int:
    return sum(is_ready(pod) for pod in pods)
