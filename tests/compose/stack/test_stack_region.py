"""deploy/compose/region.yml for real: an upper federation in one stack, a region with two sites of its own in another.

Both are set up as docs/hierarchy.md says. The region dials the upper stack's published port over TLS and trusts the
authority of the upper stack's own certificates.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.compose.stack.docker import HERE, NEEDS_DOCKER, Stack, fresh_stack, run
from tests.compose.stack.rounds import completed, fedafd

from fedafd.client.federation import FederationClient

pytestmark = [pytest.mark.timeout(1800), NEEDS_DOCKER]
SITES = ("images", "texts")
SERVICES = ("control-plane", "aggregator", "distiller")
REGION_SERVICES = ("region", *SERVICES, *(f"agent-{name}" for name in SITES))


def federation_file(folder: Path, name: str) -> str:
    """federation.yaml of the other tests under another name, for two sites."""
    config = yaml.safe_load((HERE / "federation.yaml").read_text(encoding="utf-8"))
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config | {"name": name, "quorum": {"min_clients": 2}}), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def upper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("compose-upper")
    # The address of this machine that containers of other stacks can dial.
    machine = run(["docker", "network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}"]).strip()
    with fresh_stack(folder, "tls") as stack:
        stack.serve_tls(machine, f"IP:{machine}")
        stack.environment["FEDAFD_FEDERATION_FILE"] = federation_file(folder, "upper")
        stack.compose("build", "--quiet", seconds=1800)
        yield stack


@pytest.fixture(scope="module")
def authority(upper: Stack) -> Path:
    return upper.tls_authority


@pytest.fixture(scope="module")
def region(upper: Stack, authority: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("compose-region")
    config = {
        "aggregator": f"{upper.environment['FEDAFD_GRPC_ADDRESS']}:{upper.environment['FEDAFD_GRPC_PORT']}",
        "federation": "north",
        "state_dir": "/var/lib/fedafd/state",
        "tls": {"authorities": "/run/secrets/upper_authority.pem"},
    }
    (folder / "region.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with fresh_stack(folder, "region") as stack:
        stack.environment |= {
            "FEDAFD_FEDERATION_FILE": federation_file(folder, "north"),
            # Another public set than the upper federation's, which the region has to bring into its store.
            "FEDAFD_PUBLIC_OPTIONS": '{"num_train": 32, "num_val": 16, "num_test": 16, "seed": 6}',
            "FEDAFD_REGION_FILE": str(folder / "region.yaml"),
            "FEDAFD_REGION_TOKEN": str(folder / "token"),
            "FEDAFD_REGION_AUTHORITY": str(authority),
        }
        yield stack


@pytest.fixture
def above(upper: Stack, authority: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FederationClient]:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    client = FederationClient(upper.url, upper.admin_key, "upper")
    yield client
    client.close()


@pytest.fixture
def below(region: Stack) -> Iterator[FederationClient]:
    client = FederationClient(region.url, region.admin_key, "north")
    yield client
    client.close()


def test_the_upper_federation_comes_up_without_sites(upper: Stack, authority: Path, region: Stack) -> None:
    upper.up(*SERVICES, "rest-tls")
    upper.compose("run", "--rm", "federation")
    invite = ("client", "invite", "north", "--kind", "region", "--max-clients", "2", "--federation", "upper")
    token = fedafd(upper, *invite, SSL_CERT_FILE=str(authority))
    Path(region.environment["FEDAFD_REGION_TOKEN"]).write_text(token, encoding="utf-8")


def test_the_region_comes_up_healthy_with_its_sites(region: Stack, above: FederationClient) -> None:
    with region.timed("up_seconds"):
        region.up("region", "distiller", *(f"agent-{name}" for name in SITES))
    containers = region.containers()
    for service in REGION_SERVICES:
        assert containers[service]["State"]["Health"]["Status"] == "healthy", service
    (client,) = above.clients()
    assert (client["name"], client["kind"], client["state"]) == ("north", "region", "enrolled")


def test_the_region_is_confined_and_reaches_no_site_of_its_own(region: Stack) -> None:
    found = region.containers()["region"]
    assert found["HostConfig"]["ReadonlyRootfs"]
    assert found["HostConfig"]["CapDrop"] == ["ALL"]
    networks = {name.removeprefix(f"{region.project}_") for name in found["NetworkSettings"]["Networks"]}
    assert networks == {"database", "store", "upper"}
    assert region.exec("region", "id", "-u").stdout.strip() not in ("", "0")


def test_a_round_of_the_upper_federation_counts_both_sites(
    upper: Stack, region: Stack, authority: Path, above: FederationClient, below: FederationClient
) -> None:
    with region.timed("round_seconds"):
        fedafd(upper, "round", "start", "--watch", "--federation", "upper", SSL_CERT_FILE=str(authority))
    (part,) = completed(above, 1, parts=1)["participations"]
    assert (part["client"], part["num_clients"]) == ("north", 2)
    own = completed(below, 1, parts=2)
    assert {each["client"] for each in own["participations"]} == set(SITES)
    assert not below.models(), "versions are the upper federation's"
    assert [model["version"] for model in above.models()] == [1]
    told = region.exec("region", "fedafd", "region", "sent", "--config", "/etc/fedafd/region.yaml", "--output", "json")
    sent = [each for each in json.loads(told.stdout) if each["round"]]
    assert [(each["what"], each["round"]) for each in sent] == [("merged-states", 1)], told


def test_it_goes_on_without_its_invitation_after_down_and_up(
    region: Stack, above: FederationClient, below: FederationClient
) -> None:
    region.compose("down", "--timeout", "30")
    Path(region.environment["FEDAFD_REGION_TOKEN"]).write_text("", encoding="utf-8")
    region.up("region", "distiller", *(f"agent-{name}" for name in SITES))
    above.start_rounds(1)
    (part,) = completed(above, 2, parts=1)["participations"]
    assert part["num_clients"] == 2
    completed(below, 2, parts=2)


def test_down_v_leaves_nothing(upper: Stack, region: Stack) -> None:
    for stack in (region, upper):
        stack.compose("down", "--volumes")
        assert stack.leftovers() == []
