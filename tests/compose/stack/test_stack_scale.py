"""deploy/compose/scale.yml for real: two aggregators behind the proxy, three distillers, one aggregator killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.compose.stack.docker import NEEDS_DOCKER, SERVICES, Stack, fresh_stack, run
from tests.compose.stack.rounds import completed, patiently, round_state

from fedafd.client.federation import FederationClient

pytestmark = [pytest.mark.timeout(1800), NEEDS_DOCKER]
_LEADER = """
import re, urllib.request
text = urllib.request.urlopen("http://127.0.0.1:9090/metrics").read().decode()
print(re.search(r"^fedafd_aggregator_coordinator_leader (.+)$", text, re.M)[1])
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with fresh_stack(tmp_path_factory.mktemp("compose-scale"), "scale") as stack:
        stack.compose("build", "--quiet", seconds=1800)
        yield stack


@pytest.fixture(scope="module")
def rest(stack: Stack) -> Iterator[FederationClient]:
    client = FederationClient(stack.url, stack.admin_key, "local")
    yield client
    client.close()


def leaders(stack: Stack) -> list[dict[str, Any]]:
    """The running aggregators that coordinate."""
    running = [each for each in stack.replicas("aggregator") if each["State"]["Running"]]
    answers = [run(["docker", "exec", each["Id"], "python", "-c", _LEADER]).strip() for each in running]
    return [each for each, answer in zip(running, answers, strict=True) if answer == "1.0"]


def wait_for_a_leader(stack: Stack, seconds: float = 120) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while len(found := leaders(stack)) != 1:
        assert time.monotonic() < deadline, f"{len(found)} aggregators coordinate"
        time.sleep(1)
    return found[0]


def test_it_comes_up_healthy(stack: Stack) -> None:
    with stack.timed("up_seconds"):
        stack.up()
    for service, count in {**dict.fromkeys((*SERVICES, "grpc"), 1), "aggregator": 2, "distiller": 3}.items():
        states = [each["State"]["Health"]["Status"] for each in stack.replicas(service)]
        assert states == ["healthy"] * count, service
    wait_for_a_leader(stack)


def test_an_agent_meets_the_proxy_only(stack: Stack) -> None:
    assert stack.exec("agent-texts", "fedafd", "health", "--any-certificate", "grpcs://grpc:7443").returncode == 0
    assert stack.exec("agent-texts", "fedafd", "health", "--any-certificate", "grpcs://aggregator:7443").returncode == 1


def test_a_round_completes_although_the_aggregator_that_coordinates_is_killed(
    stack: Stack, rest: FederationClient
) -> None:
    rest.start_rounds(1)
    deadline = time.monotonic() + 600
    while round_state(rest, 1)["state"] != "collecting":
        assert time.monotonic() < deadline, round_state(rest, 1)
        time.sleep(0.1)
    killed = wait_for_a_leader(stack)
    run(["docker", "kill", killed["Id"]])
    state = round_state(rest, 1)["state"]
    assert state not in ("completed", "failed", "cancelled"), "it was killed too late to matter"
    with stack.timed("round_after_kill_seconds"):
        completed(rest, 1)
    assert wait_for_a_leader(stack)["Id"] != killed["Id"]
    run(["docker", "start", killed["Id"]])
    stack.wait_healthy("aggregator")
    kinds = {event["kind"] for event in patiently(rest.events)}
    assert not {"participation.dropped", "participation.rejected", "stage.failed"} & kinds


def test_stages_are_spread_over_the_distillers(stack: Stack, rest: FederationClient) -> None:
    # Whoever has waited longest gets the next message from Redis, and seven stages of a round go to three distillers.
    number = len(rest.models()) + 1
    rest.start_rounds(1)
    with stack.timed("round_seconds"):
        stages = completed(rest, number)["stages"]
    assert {stage["state"] for stage in stages} == {"done"}
    workers = {stage["worker"] for stage in stages}
    stack.figures["distillers_at_work"] = len(workers)
    assert len(workers) > 1, stages


def test_down_v_leaves_nothing(stack: Stack) -> None:
    stack.compose("down", "--volumes")
    assert stack.leftovers() == []
