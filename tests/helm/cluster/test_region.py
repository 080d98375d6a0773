"""A region in a real cluster, as docs/hierarchy.md says: an upper release, and a region's with two sites of its own.

Runs by `make test-helm` only. What it measured lies in benchmark-results/helm-region.json afterwards.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.helm.charts import Values, merged
from tests.helm.cluster import scenario
from tests.helm.cluster.kubernetes import Namespace, Transcript, is_ready, load_images, told_if_failed, wait_until
from tests.helm.cluster.operator_client import Operator
from tests.helm.cluster.scenario import FEDERATION, KINDS, address, server_values, site_values
from tests.servers import ROOT

pytestmark = [
    pytest.mark.timeout(2400),
    pytest.mark.skipif(
        not os.environ.get("FEDAFD_TEST_CLUSTER"), reason="needs a cluster: set KUBECONFIG and run `make test-helm`"
    ),
]
UPPER, REGION = "upper", "north"
"""Releases, and their federations."""
SITES = ("images", "texts")
POD = f"{REGION}-fedafd-region-0"


class Levels:
    """The namespace of both releases, and the operator of each."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace, self.transcript = namespace, Transcript()
        self.operators: dict[str, Operator] = {}

    def connect(self, release: str) -> Operator:
        if release not in self.operators:
            self.operators[release] = Operator.of_release(self.namespace, release, release)
        return self.operators[release]

    def keep_invitation(self, name: str, token: str) -> None:
        self.namespace.kubectl("create", "secret", "generic", f"invitation-{name}", f"--from-literal=token={token}")


@pytest.fixture(scope="module")
def levels() -> Iterator[Levels]:
    levels = Levels(Namespace(f"fedafd-{uuid.uuid4().hex[:8]}"))
    levels.namespace.create()
    try:
        yield levels
    finally:
        levels.transcript.write(ROOT / "benchmark-results" / "helm-region.json")
        for operator in levels.operators.values():
            operator.close()
        levels.namespace.remove_unless_kept()


@pytest.fixture(autouse=True)
def logs_of_a_failure(request: pytest.FixtureRequest, levels: Levels) -> Iterator[None]:
    with told_if_failed(request, levels.namespace):
        yield


def values(**more: Any) -> Values:
    small = {"controlPlane": {"replicas": 1}, "aggregator": {"replicas": 1}, "queries": {"enabled": False}}
    return merged(server_values(**small), more)


def test_both_releases_install(levels: Levels, tmp_path: Path) -> None:
    load_images(scenario.images())
    with levels.transcript.step("helm install --wait of the upper release and the region's"):
        for release in (UPPER, REGION):
            levels.namespace.install(release, "fedafd", values())
    options = {"num_train": 64, "num_val": 16, "num_test": 32, "seed": 5}
    scenario.write_public_set(scenario.load_public_data("shapes", None, options), tmp_path)
    quorum = {"quorum": {"min_clients": len(SITES)}}
    levels.connect(UPPER).set_up(FEDERATION | quorum | {"name": UPPER}, tmp_path, {})
    levels.connect(REGION).create(FEDERATION | quorum | {"name": REGION})
    levels.keep_invitation(REGION, levels.connect(UPPER).invite(REGION, "region", max_clients=len(SITES)))


def test_an_upgrade_makes_a_release_a_region_that_is_ready_once_it_is_enrolled(levels: Levels) -> None:
    region = {
        "enabled": True,
        "aggregator": address(str(levels.namespace), UPPER),
        "federation": REGION,
        "enrolment": {"existingSecret": f"invitation-{REGION}"},
        "state": {"size": "1Gi"},
    }
    with levels.transcript.step("helm upgrade --wait to region.enabled: the region is enrolled"):
        levels.namespace.upgrade(REGION, "fedafd", values(region=region))
    assert levels.connect(UPPER).clients() == {REGION: "enrolled"}
    levels.namespace.kubectl("delete", "secret", f"invitation-{REGION}")


def test_sites_join_the_region(levels: Levels) -> None:
    operator = levels.connect(REGION)
    for name in SITES:
        levels.keep_invitation(name, operator.invite(name, KINDS[name]))
        own = site_values(name, str(levels.namespace), aggregator={"address": address(str(levels.namespace), REGION)})
        levels.namespace.install(name, "fedafd-agent", own)
    wait_until(lambda: set(operator.clients().values()) == {"enrolled"}, "the enrolment of all sites")


def completed(levels: Levels, number: int) -> None:
    """The round of both federations; the upper one counts each site of the region."""
    (part,) = levels.connect(UPPER).completed(number)["participations"]
    assert (part["client"], part["num_clients"]) == (REGION, len(SITES)), part
    own = levels.connect(REGION).completed(number)
    assert {each["client"]: each["state"] for each in own["participations"]} == dict.fromkeys(SITES, "delivered"), own


def test_a_round_of_the_upper_federation_counts_both_sites(levels: Levels) -> None:
    with levels.transcript.step("one round of the upper federation through the region"):
        (number,) = levels.connect(UPPER).start_rounds(1)
        completed(levels, number)


def test_the_region_reaches_what_it_needs_and_nothing_else(levels: Levels) -> None:
    needed = {f"{REGION}-fedafd-postgresql:5432", f"{REGION}-fedafd-minio:9000", f"{UPPER}-fedafd-aggregator:7443"}
    others = {f"{REGION}-fedafd-redis:6379", f"{UPPER}-fedafd-postgresql:5432", f"{UPPER}-fedafd-control-plane:80"}
    reached = {each for each in needed | others if levels.namespace.connects(POD, each)}
    assert reached == needed


def test_the_region_may_die_in_a_round(levels: Levels) -> None:
    (number,) = levels.connect(UPPER).start_rounds(1)
    levels.connect(UPPER).reaches(number, "collecting")
    levels.namespace.kubectl("delete", "pod", POD, "--wait=false", "--grace-period=0", "--force")
    completed(levels, number)
    wait_until(lambda: is_ready(levels.namespace.pods().get(POD, {"status": {}})), "a new pod for the region")


def test_uninstall_leaves_nothing_but_the_volumes_and_what_opens_them(levels: Levels) -> None:
    for release in (*SITES, REGION, UPPER):
        levels.namespace.helm("uninstall", release, "--wait")
    wait_until(lambda: not levels.namespace.get("pods"), "the end of all pods")
    left = {name for name in levels.namespace.what_is_left() if not name.startswith("secret/invitation-")}
    volumes = {name for name in left if name.startswith("persistentvolumeclaim/")}
    assert volumes
    assert left - volumes == {f"secret/{release}-fedafd-generated" for release in (UPPER, REGION)}
