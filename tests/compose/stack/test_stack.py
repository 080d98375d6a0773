"""The stack of docker-compose.yml for real: built, brought up, trained on, broken, stopped, removed.

Runs by `make test-compose` only, and needs a Docker engine. The tests stand in the order of a stack's life; each
goes on where the one before ended. What they measured lies in benchmark-results/compose.json afterwards. The overlays
have files of their own, which come after this one and use the images that it built.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest
from tests.compose.stack.docker import IMAGES, NEEDS_DOCKER, SERVICES, Stack, fresh_stack, run
from tests.compose.stack.rounds import OPEN, completed, fedafd, patiently, round_state
from tests.servers import ROOT

from fedafd import PersonalizedModel
from fedafd.client.federation import FederationClient

pytestmark = [pytest.mark.timeout(2400), NEEDS_DOCKER]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with fresh_stack(tmp_path_factory.mktemp("compose")) as stack:
        yield stack


@pytest.fixture
def rest(stack: Stack) -> Iterator[FederationClient]:
    client = FederationClient(stack.url, stack.admin_key, "local")
    yield client
    client.close()


def test_the_images_build(stack: Stack) -> None:
    with stack.timed("build_seconds"):
        stack.compose("build", "--quiet", seconds=1800)
    sizes = run(["docker", "image", "inspect", "--format", "{{.Size}}", *(_image(name) for name in IMAGES)])
    for name, size in zip(IMAGES, sizes.split(), strict=True):
        stack.figures[f"{name}_image_megabytes"] = round(int(size) / 1e6)


def _image(name: str) -> str:
    return f"fedafd/{name}:compose-test"


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_runs_as_nobody_and_holds_no_compiler(name: str) -> None:
    described = json.loads(run(["docker", "image", "inspect", _image(name)]))[0]["Config"]
    assert described["User"].split(":")[0].isdigit()
    assert described["User"] != "0"
    assert described["Labels"]["org.opencontainers.image.licenses"]
    assert described["Labels"]["org.opencontainers.image.base.name"]
    assert described["Healthcheck"]["Test"][0] == "CMD"
    tools = "for tool in gcc cc c++ make go; do command -v $tool; done; ls /root/.cache 2>/dev/null; true"
    assert run(["docker", "run", "--rm", "--user", "0", "--entrypoint", "sh", _image(name), "-c", tools]) == ""


@pytest.mark.parametrize(("name", "there"), [("control-plane", 0), ("aggregator", 0), ("distiller", 1), ("agent", 1)])
def test_only_those_who_train_have_torch(name: str, there: int) -> None:
    code = "import importlib.util as u; print(int(u.find_spec('torch') is not None))"
    assert run(["docker", "run", "--rm", _image(name), "python", "-c", code]) == f"{there}\n"


_ADAPTERS_AND_TIMM = """
import peft, timm, torch, torchvision
model = peft.inject_adapter_in_model(peft.LoraConfig(target_modules="fc"), timm.create_model("resnet10t"))
kept = torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2), torch.tensor([1.0, 0.5]), 0.5)
print(*model(torch.zeros(1, 3, 64, 64)).shape, *kept.tolist())
"""


@pytest.mark.parametrize("name", ["distiller", "agent"])
def test_those_who_train_have_adapters_and_timm_and_a_torchvision_that_fits_their_torch(name: str) -> None:
    confined = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--network", "none"]
    assert run(["docker", "run", "--rm", *confined, _image(name), "python", "-c", _ADAPTERS_AND_TIMM]) == "1 1000 0\n"


def test_agent_and_distiller_share_torchs_layer() -> None:
    layers = [
        json.loads(run(["docker", "image", "inspect", "--format", "{{json .RootFS.Layers}}", _image(name)]))
        for name in ("agent", "distiller")
    ]
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*layers, strict=False)))
    assert len(layers[0]) - shared <= 2, "only the layers with the code and its folder may differ"


def test_it_comes_up_healthy(stack: Stack) -> None:
    with stack.timed("up_seconds"):
        stack.up()
    containers = stack.containers()
    for service in SERVICES:
        assert containers[service]["State"]["Health"]["Status"] == "healthy", service
    jobs = set(containers) - set(SERVICES)
    assert jobs == {"migrate", "store-keys", "federation", "invite-images", "invite-texts", "invite-pairs"}
    assert all(containers[job]["State"]["ExitCode"] == 0 for job in jobs)


def test_every_container_is_confined(stack: Stack) -> None:
    for service, found in stack.containers().items():
        host = found["HostConfig"]
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"], service
        assert not host["CapAdd"], service
        assert "no-new-privileges:true" in host["SecurityOpt"], service
        assert host["Memory"] > 0, service
        assert host["NanoCpus"] > 0, service
        assert host["PidsLimit"] > 0, service
    for service in SERVICES:
        assert stack.exec(service, "id", "-u").stdout.strip() not in ("", "0"), service
        assert stack.exec(service, "touch", "/written").returncode != 0, service


_REACH = """
import socket, sys
for address in sys.argv[1:]:
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
        print(address)
    except OSError:
        pass
"""
_ADDRESSES = ("postgres:5432", "redis:6379", "minio:9000", "control-plane:8080", "aggregator:7443")


@pytest.mark.parametrize(
    ("service", "reached"),
    [
        ("agent-images", {"aggregator:7443"}),
        ("agent-texts", {"aggregator:7443"}),
        ("agent-pairs", {"aggregator:7443"}),
        ("distiller", {"redis:6379", "minio:9000", "control-plane:8080", "aggregator:7443"}),
        ("queries", {"redis:6379", "minio:9000"}),
        ("aggregator", set(_ADDRESSES)),
        ("control-plane", set(_ADDRESSES)),
    ],
)
def test_a_process_reaches_what_it_may_and_nothing_else(stack: Stack, service: str, reached: set[str]) -> None:
    done = stack.exec(service, "python", "-c", _REACH, *_ADDRESSES)
    assert set(done.stdout.split()) == reached, done.stderr


def test_a_token_lies_where_its_agent_alone_sees_it(stack: Stack) -> None:
    seen = {
        name: stack.exec(f"agent-{name}", "cat", "/run/fedafd/token").stdout for name in ("images", "texts", "pairs")
    }
    assert len(set(seen.values())) == 3
    assert all(token.startswith("fedafd-enrol.") for token in seen.values())
    for name, token in seen.items():
        mounted = {
            mount["Name"] for mount in stack.containers()[f"agent-{name}"]["Mounts"] if mount["Type"] == "volume"
        }
        assert mounted == {f"{stack.project}_token-{name}", f"{stack.project}_agent-{name}"}
        assert stack.exec("control-plane", "grep", "-rqs", token.strip(), "/run", "/var/lib/fedafd").returncode != 0


def test_two_rounds_started_from_the_host(stack: Stack, rest: FederationClient) -> None:
    with stack.timed("two_rounds_seconds"):
        fedafd(stack, "round", "start", "--rounds", "2", "--watch")
    for number in (1, 2):
        completed(rest, number)


def test_a_personalized_model_is_pulled_over_rest_and_used(stack: Stack, tmp_path: Path) -> None:
    fedafd(stack, "model", "pull", str(tmp_path / "texts"), "--client", "texts")
    model = PersonalizedModel.from_pretrained(tmp_path / "texts")
    ((label, probability),) = model.predict(["we saw something red , it is round all over"])
    assert label in model.labels
    assert 0 < probability <= 1


def test_each_service_is_killed_once_during_a_round(stack: Stack, rest: FederationClient) -> None:
    number = 2
    for service in SERVICES:
        number = _round_with_work_for(service, rest, number)
        stack.compose("kill", "--signal", "KILL", service)
        assert stack.containers()[service]["State"]["ExitCode"] == 137
        with stack.timed(f"{service}_back_seconds"):
            # `docker compose start` would run the jobs that the service depends on again.
            run(["docker", "start", stack.containers()[service]["Id"]])
            stack.wait_healthy(service)
    for each in range(3, number + 1):
        completed(rest, each)


def _round_with_work_for(service: str, rest: FederationClient, number: int) -> int:
    """Wait until a round is where the service has work, starting another round when one ends; its number."""
    wanted = {"distiller": {"preparing", "distilling"}}.get(service, {"collecting"} if "agent" in service else OPEN)
    deadline = time.monotonic() + 600
    while (state := round_state(rest, number)["state"]) not in wanted:
        assert time.monotonic() < deadline, f"round {number} stays {state}"
        if state not in OPEN:
            patiently(lambda: rest.start_rounds(1))
            number += 1
        time.sleep(0.1)
    return number


def test_data_survive_down_and_up(stack: Stack, rest: FederationClient) -> None:
    before = (_client_states(rest), _versions(rest))
    stack.compose("down", "--timeout", "30")
    assert stack.containers() == {}
    with stack.timed("up_again_seconds"):
        stack.up()
    assert (_client_states(rest), _versions(rest)) == before
    number = len(rest.models()) + 1
    rest.start_rounds(1)
    completed(rest, number)


def _client_states(rest: FederationClient) -> dict[str, str]:
    return {each["name"]: each["state"] for each in rest.clients()}


def _versions(rest: FederationClient) -> list[dict[str, object]]:
    """The versions of the global model, but for whether old ones have their state: those are removed in time."""
    return [{key: value for key, value in model.items() if key != "has_state"} for model in rest.models()]


def test_down_v_leaves_nothing(stack: Stack) -> None:
    stack.compose("down", "--volumes")
    assert stack.leftovers() == []


def test_it_refuses_to_start_without_secrets_and_says_what_to_run(stack: Stack) -> None:
    environment = {key: value for key, value in stack.environment.items() if key != "FEDAFD_SECRETS"}
    done = subprocess.run(
        ["docker", "compose", "--env-file", os.devnull, "up", "--detach"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
        timeout=60,
    )
    assert done.returncode != 0
    assert "run `make secrets` first" in done.stderr
