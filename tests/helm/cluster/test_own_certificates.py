"""A release that goes over to its operator's own authority and certificate by `helm upgrade`, in a real cluster.

The steps are those of docs/certificates.md ("Change the authority"). Runs by `make test-helm` only; what it measured
lies in benchmark-results/helm-certificates.json afterwards.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.certificates import Authority
from tests.helm.charts import Values
from tests.helm.cluster import scenario
from tests.helm.cluster.kubernetes import Namespace, Transcript, load_images, told_if_failed, wait_until
from tests.helm.cluster.operator_client import Operator
from tests.helm.cluster.scenario import FEDERATION, KINDS, RELEASE, address, server_values, site_values
from tests.servers import ROOT

pytestmark = [
    pytest.mark.timeout(2400),
    pytest.mark.skipif(
        not os.environ.get("FEDAFD_TEST_CLUSTER"), reason="needs a cluster: set KUBECONFIG and run `make test-helm`"
    ),
]
SITES = ("images", "texts")
AUTHORITY, CERTIFICATE = "own-authority", "own-certificate"
"""Secrets."""


@dataclass
class World:
    """What the tests share."""

    namespace: Namespace
    authority: Authority
    transcript: Transcript = field(default_factory=Transcript)
    operator: Operator | None = None

    @property
    def rest(self) -> Operator:
        if self.operator is None:
            self.operator = Operator.of_release(self.namespace, RELEASE, FEDERATION["name"])
        return self.operator

    def keep_invitation(self, name: str, token: str) -> None:
        self.namespace.kubectl("delete", "secret", f"invitation-{name}", "--ignore-not-found")
        self.namespace.kubectl("create", "secret", "generic", f"invitation-{name}", f"--from-literal=token={token}")

    def one_round(self) -> None:
        (number,) = self.rest.start_rounds(1)
        answer = self.rest.completed(number)
        assert {each["client"]: each["state"] for each in answer["participations"]} == dict.fromkeys(SITES, "delivered")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("certificates")
    world = World(Namespace(f"fedafd-{uuid.uuid4().hex[:8]}"), Authority(folder, "hospitals"))
    world.namespace.create()
    try:
        yield world
    finally:
        world.transcript.write(ROOT / "benchmark-results" / "helm-certificates.json")
        if world.operator is not None:
            world.operator.close()
        world.namespace.remove_unless_kept()


@pytest.fixture(autouse=True)
def logs_of_a_failure(request: pytest.FixtureRequest, world: World) -> Iterator[None]:
    with told_if_failed(request, world.namespace):
        yield


def server(**aggregator: Any) -> Values:
    return server_values(
        controlPlane={"replicas": 1}, aggregator={"replicas": 1, **aggregator}, queries={"enabled": False}
    )


def test_a_federation_on_the_built_in_authority(world: World, tmp_path: Path) -> None:
    load_images(scenario.images())
    world.namespace.install(RELEASE, "fedafd", server())
    options = {"num_train": 64, "num_val": 16, "num_test": 32, "seed": 5}
    scenario.write_public_set(scenario.load_public_data("shapes", None, options), tmp_path)
    quorum = {"quorum": {"min_clients": len(SITES)}}
    for name, token in world.rest.set_up(FEDERATION | quorum, tmp_path, {name: KINDS[name] for name in SITES}).items():
        world.keep_invitation(name, token)
        world.namespace.install(name, "fedafd-agent", site_values(name, str(world.namespace)))
    world.one_round()


def test_by_an_upgrade_the_aggregator_has_its_operators_authority_and_certificate(world: World) -> None:
    host = address(str(world.namespace)).partition(":")[0]
    certificate, key = world.authority.issue("aggregator", host=host)
    ca = world.authority.file
    for secret, files in {
        AUTHORITY: {"tls.crt": ca, "tls.key": world.authority.key_file()},
        CERTIFICATE: {"tls.crt": certificate, "tls.key": key, "ca.crt": ca},
    }.items():
        given = (f"--from-file={name}={path}" for name, path in files.items())
        world.namespace.kubectl("create", "secret", "generic", secret, *given)
    own = {
        "authority": {"existingSecret": AUTHORITY},
        "tls": {"existingSecret": CERTIFICATE, "serverName": host},
    }
    with world.transcript.step("helm upgrade --wait to an authority and a certificate of one's own"):
        world.namespace.upgrade(RELEASE, "fedafd", server(**own))
    world.namespace.helm("test", RELEASE)


def test_sites_that_are_invited_again_go_on_under_it(world: World) -> None:
    trusted = {"address": address(str(world.namespace)), "tls": {"caSecret": CERTIFICATE}}
    with world.transcript.step("helm upgrade --wait of two sites with a new invitation"):
        for name in SITES:
            world.keep_invitation(name, world.rest.invite_again(name))
            values = site_values(name, str(world.namespace), aggregator=trusted)
            world.namespace.upgrade(name, "fedafd-agent", values)
        wait_until(lambda: set(world.rest.clients().values()) == {"enrolled"}, "the enrolment of all sites")
    world.one_round()


def test_they_stay_when_the_aggregator_starts_anew(world: World) -> None:
    deployment = f"deployment/{RELEASE}-fedafd-aggregator"
    world.namespace.kubectl("rollout", "restart", deployment)
    world.namespace.kubectl("rollout", "status", deployment, "--timeout=300s")
    world.one_round()
