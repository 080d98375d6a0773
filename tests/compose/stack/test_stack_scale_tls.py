"""deploy/compose/scale-tls.yml for real: several aggregators behind one published port, one of them killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.compose.stack.docker import NEEDS_DOCKER, Stack, fresh_stack, run
from tests.compose.stack.rounds import completed, fedafd

from fedafd.client.federation import FederationClient

pytestmark = [pytest.mark.timeout(1200), NEEDS_DOCKER]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with fresh_stack(tmp_path_factory.mktemp("compose-scale-tls"), "tls", "scale", "scale-tls") as stack:
        stack.serve_tls()
        stack.compose("build", "--quiet", seconds=1800)
        yield stack


def published(stack: Stack, service: str) -> list[str]:
    """Ports of this machine that lead to each container of a service."""
    return [
        port["HostPort"]
        for replica in stack.replicas(service)
        for ports in replica["NetworkSettings"]["Ports"].values()
        for port in ports or ()
    ]


def test_it_comes_up_healthy_with_one_published_port(stack: Stack) -> None:
    with stack.timed("up_seconds"):
        stack.up()
    assert published(stack, "grpc") == [stack.environment["FEDAFD_GRPC_PORT"]]
    states = [each["State"]["Health"]["Status"] for each in stack.replicas("aggregator")]
    assert states == ["healthy"] * 2
    assert published(stack, "aggregator") == []


def test_other_machines_reach_an_aggregator_although_one_is_killed(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(stack.tls_authority))
    rest = FederationClient(stack.url, stack.admin_key, "local")
    run(["docker", "kill", stack.replicas("aggregator")[0]["Id"]])
    url = f"grpcs://127.0.0.1:{stack.environment['FEDAFD_GRPC_PORT']}"
    fedafd(stack, "health", url, "--authorities", str(stack.tls_authority), "--timeout", "20")
    # The sites, too, go through the proxy and trust its name in the certificate.
    with stack.timed("round_seconds"):
        fedafd(stack, "round", "start", "--watch", SSL_CERT_FILE=str(stack.tls_authority))
    completed(rest, 1)
    rest.close()


def test_down_v_leaves_nothing(stack: Stack) -> None:
    stack.compose("down", "--volumes")
    assert stack.leftovers() == []
