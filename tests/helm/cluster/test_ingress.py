"""The ways in through a controller: Ingresses first, then an upgrade to Gateway API routes, served by a real Traefik.

Runs by `make test-helm` only, and is skipped where Traefik was not built. The operator is the command line over HTTPS,
the sites are the agents' chart over gRPC with TLS. What it measured lies in benchmark-results/helm-ingress.json after.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml
from tests.certificates import Authority
from tests.end_to_end.federation import FEDERATION
from tests.helm.cluster import scenario
from tests.helm.cluster.controller import REST_HOST, Controller, require_traefik
from tests.helm.cluster.kubernetes import (
    CommandFailedError,
    Namespace,
    PortForward,
    Transcript,
    load_images,
    run,
    told_if_failed,
    wait_until,
)
from tests.helm.cluster.scenario import KINDS, RELEASE, server_values, site_values
from tests.servers import ROOT

from fedafd import GlobalModel
from fedafd.domain.config import TlsConfig
from fedafd.proto.v1 import aggregator_pb2, types_pb2
from fedafd.rpc.channel import open_sync_channel
from fedafd.rpc.client_key import ClientKey, certificate_text
from fedafd.rpc.credentials import bearer_metadata
from fedafd.rpc.sessions import session_metadata

pytestmark = [
    pytest.mark.timeout(2400),
    pytest.mark.skipif(
        not os.environ.get("FEDAFD_TEST_CLUSTER"), reason="needs a cluster: set KUBECONFIG and run `make test-helm`"
    ),
]
SITES = ("images", "texts")
SERVER_PODS = 7
"""One of each process, a query worker, three stores."""
PUBLIC_SET = {"num_train": 64, "num_val": 16, "num_test": 32, "seed": 5, "image_size": 128}
WIDE_IMAGE = {"options": {"hidden_sizes": [64, 256]}}
"""Some MB of personalized model, so that an upload has several chunks."""
GRPC_BEHIND = {"traefik.ingress.kubernetes.io/service.serversscheme": "h2c"}
TLS_ONLY = {
    "traefik.ingress.kubernetes.io/router.entrypoints": "websecure",
    "traefik.ingress.kubernetes.io/router.tls": "true",
}
"""Without it Traefik serves an Ingress on its plain port, also one with a certificate."""
READ_TIMEOUT_SECONDS = 60
"""Traefik's own; `Controller.start` leaves it."""
SLOW_SECONDS = 75.0
Call = Callable[[], str]


@dataclass
class Front:
    """What the tests share: the release, the controller before it, and an operator outside."""

    releases: Namespace
    controller: Controller
    authority: Authority
    folder: Path
    transcript: Transcript = field(default_factory=Transcript)
    api_key: str = ""
    _forwards: dict[int, PortForward] = field(default_factory=dict)

    def port(self, port: int = 443) -> int:
        """The port on this machine that leads to one of the controller's."""
        forward = self._forwards.setdefault(port, PortForward(self.controller.namespace, "service/rest", port))
        forward.ensure()
        return forward.port

    def fedafd(self, *arguments: str, scheme: str = "https", authority: Authority | None = None) -> str:
        """The command line, as an operator outside uses it. Raises CommandFailedError."""
        environment = {
            "FEDAFD_URL": f"{scheme}://{REST_HOST}:{self.port(443 if scheme == 'https' else 80)}",
            "FEDAFD_API_KEY": self.api_key,
            "FEDAFD_FEDERATION": FEDERATION["name"],
            "SSL_CERT_FILE": str((authority or self.authority).file),
        }
        return run(sys.executable, "-m", "fedafd.cli.main", *arguments, environment=environment)

    def grpc_channel(self) -> grpc.Channel:
        tls = TlsConfig(authorities=self.authority.file, server_name=self.controller.grpc_host)
        return open_sync_channel(f"{REST_HOST}:{self.port()}", tls)

    def close(self) -> None:
        for forward in self._forwards.values():
            forward.stop()


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    require_traefik()
    releases, folder = Namespace(f"fedafd-{uuid.uuid4().hex[:8]}"), tmp_path_factory.mktemp("front")
    front = Front(releases, Controller(releases), Authority(folder, "test"), folder)
    try:
        yield front
    finally:
        front.transcript.write(ROOT / "benchmark-results" / "helm-ingress.json")
        front.close()
        if not os.environ.get("FEDAFD_KEEP_NAMESPACE"):
            releases.remove()
            front.controller.remove()


@pytest.fixture(autouse=True)
def logs_of_a_failure(request: pytest.FixtureRequest, front: Front) -> Iterator[None]:
    with told_if_failed(request, front.releases, front.controller.namespace):
        yield


def test_the_controller_starts(front: Front) -> None:
    with front.transcript.step("Traefik's image and the Gateway API's kinds brought in, Traefik ready"):
        front.controller.start()
    front.releases.create()
    front.controller.certify(front.authority)


def test_the_server_side_installs_behind_ingresses(front: Front) -> None:
    load_images(scenario.images())
    with front.transcript.step("helm install fedafd --wait with both Ingresses"):
        front.releases.install(RELEASE, "fedafd", _server(front, ingress=_ingresses(front)))
        wait_until(lambda: front.releases.settled(SERVER_PODS), "the readiness of all pods")
    front.api_key = front.releases.admin_key(RELEASE)
    # Until it has heard of the pods that became ready, Traefik has no route: 404.
    front.transcript.add("after that, until REST answers", wait_until(lambda: _answers(front), "REST", seconds=60))


def _server(front: Front, **ways_in: Any) -> dict[str, Any]:
    peers = front.controller.peers
    return server_values(
        controlPlane={"replicas": 1},
        aggregator={"replicas": 1, "service": {"annotations": GRPC_BEHIND}},
        networkPolicy={"restFrom": peers, "grpcFrom": peers},
        **ways_in,
    )


def _ingresses(front: Front) -> dict[str, Any]:
    common = {"enabled": True, "className": front.controller.class_name, "annotations": TLS_ONLY}
    return {
        "rest": {**common, "host": REST_HOST, "tlsSecret": "rest-tls"},
        "grpc": {**common, "host": front.controller.grpc_host, "tlsSecret": "grpc-tls"},
    }


def test_the_command_line_works_over_https(front: Front) -> None:
    file = front.folder / "federation.yaml"
    file.write_text(yaml.safe_dump(FEDERATION))
    with front.transcript.step("federation create, public-set push, client invite over HTTPS"):
        front.fedafd("federation", "create", "-f", str(file))
        front.fedafd("public-set", "push", "--adapter", "shapes", "--options", json.dumps(PUBLIC_SET))
        for name in SITES:
            token = front.fedafd("client", "invite", name, "--kind", KINDS[name]).strip()
            front.releases.kubectl("create", "secret", "generic", f"invitation-{name}", f"--from-literal=token={token}")


def test_what_must_not_pass_the_ingresses_does_not(front: Front) -> None:
    _check_what_is_refused(front)


def _check_what_is_refused(front: Front) -> None:
    other = Authority(front.folder, "other")
    with pytest.raises(CommandFailedError, match=r"exit code 3(.|\n)*certificate verify failed"):
        front.fedafd("client", "list", authority=other)
    with pytest.raises(CommandFailedError, match=r"exit code 5(.|\n)*404"):
        front.fedafd("client", "list", scheme="http")
    with httpx.Client(base_url=f"https://{REST_HOST}:{front.port()}", verify=_context(front)) as client:
        assert client.get("/v1/federations").status_code == httpx.codes.UNAUTHORIZED
        inside = {path: client.get(path).status_code for path in ("/metrics", "/healthz", "/readyz", "/")}
    assert set(inside.values()) == {404}, inside
    service = f"{REST_HOST}:{front.port()}/fedafd.v1.AggregatorService"
    named = ("--server-name", front.controller.grpc_host)
    assert "SERVING" in front.fedafd("health", f"grpcs://{service}", "--authorities", str(front.authority.file), *named)
    with pytest.raises(CommandFailedError, match="not signed by an authority that is trusted here"):
        front.fedafd("health", f"grpcs://{service}", "--authorities", str(other.file), *named)
    with pytest.raises(CommandFailedError, match="exit code 1"):
        front.fedafd("health", f"grpc://{REST_HOST}:{front.port(80)}")
    with front.grpc_channel() as channel:
        # The aggregator has these methods, and would ask for a token; no route leads to them.
        for method in (
            "fedafd.v1.DistillationService/ClaimStage",
            "fedafd.v1.DistillationService/CompleteStage",
            "grpc.health.v1.Health/Watch",
        ):
            code, text = _refusal(channel, method)
            assert code is grpc.StatusCode.UNIMPLEMENTED and "404" in text, (method, code, text)
        code, text = _refusal(channel, "fedafd.v1.AggregatorService/FetchTask")
        assert code is grpc.StatusCode.UNAUTHENTICATED, (code, text)


def _context(front: Front) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(front.authority.file))


def _refusal(channel: grpc.Channel, method: str) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{method}", request_serializer=None, response_deserializer=None)(b"", timeout=30)
    return caught.value.code(), str(caught.value.details())


def test_sites_enrol_and_deliver_through_the_ingress(front: Front) -> None:
    with front.transcript.step("helm install fedafd-agent --wait and helm test, twice"):
        for name in SITES:
            front.releases.install(name, "fedafd-agent", _site(front, name))
            front.releases.helm("test", name)
        wait_until(lambda: set(_clients(front).values()) == {"enrolled"}, "the enrolment of both sites")
    _complete_a_round(front, 1, "a round through the Ingresses")
    methods = {each["RequestPath"].rpartition("/")[2] for each in front.controller.requests()}
    assert {"Enroll", "FetchTask", "DownloadArtifact", "BeginUpload", "UploadChunks", "CommitUpload"} <= methods


def _site(front: Front, name: str) -> dict[str, Any]:
    way = {
        "address": f"{front.controller.grpc_host}:443",
        "tls": {"enabled": True, "caSecret": "authority"},
    }
    wide = {"imageEncoder": WIDE_IMAGE} if KINDS[name] == "image" else {}
    return site_values(name, str(front.releases), aggregator=way, agent=wide)


def _clients(front: Front) -> dict[str, str]:
    return {each["name"]: each["state"] for each in json.loads(front.fedafd("client", "list", "--json"))}


def _complete_a_round(front: Front, number: int, words: str) -> None:
    """One round, watched over the event stream; what went up and down has passed the controller."""
    with front.transcript.step(words):
        front.fedafd("round", "start", "--watch")
    answer = json.loads(front.fedafd("round", "show", str(number), "--json"))
    assert {each["client"]: each["state"] for each in answer["participations"]} == dict.fromkeys(SITES, "delivered")
    moved = {each["client"]: (each["bytes_up"], each["bytes_down"]) for each in answer["participations"]}
    print(f"bytes up and down in round {number}: {moved}")
    assert moved["images"][0] > 2 << 20, "several chunks went up"
    assert number > 1 or min(down for _, down in moved.values()) > 1 << 20, "the public set came down"
    front.fedafd("model", "pull", str(front.folder / f"global-{number}"))
    GlobalModel.from_pretrained(front.folder / f"global-{number}")


def test_a_request_longer_than_the_read_timeout_is_cut_and_long_polls_are_not(front: Front) -> None:
    token = front.fedafd("client", "invite", "slow", "--kind", "image").strip()
    with front.grpc_channel() as channel:
        enrol = channel.unary_unary(
            "/fedafd.v1.AggregatorService/Enroll",
            request_serializer=aggregator_pb2.EnrollRequest.SerializeToString,
            response_deserializer=aggregator_pb2.EnrollResponse.FromString,
        )
        key = ClientKey()
        request = aggregator_pb2.EnrollRequest(
            token=token, kind=types_pb2.CLIENT_KIND_IMAGE, certificate_request=key.request()
        )
        answer = enrol(request, timeout=30)
    key = ClientKey(key.pem(), certificate_text(answer.certificate))
    try:
        _compare_read_timeouts(front, answer.credential, key)
    finally:
        front.fedafd("client", "revoke", "slow")


def _compare_read_timeouts(front: Front, credential: str, key: ClientKey) -> None:
    started = time.monotonic()
    for what, (text, seconds) in _slow_requests(front, credential, key).items():
        front.transcript.add(f"a slow {what} with Traefik's own readTimeout: {text}", seconds)
        assert READ_TIMEOUT_SECONDS - 3 < seconds < READ_TIMEOUT_SECONDS + 5, (what, text, seconds)
    wait_until(lambda: time.monotonic() - started > 100, "three long polls of each agent")
    polls = [each["Duration"] / 1e9 for each in front.controller.requests() if "FetchTask" in each["RequestPath"]]
    whole = [seconds for seconds in polls if 29 < seconds < 33]
    assert len(whole) >= 2 * len(SITES), polls
    front.transcript.add(
        f"the longest of {len(whole)} long polls that were answered when their time was up", max(whole)
    )
    for name in SITES:
        assert "agent.aggregator_unreachable" not in front.releases.kubectl("logs", f"{name}-fedafd-agent-0")
    front.controller.configure(read_timeout="0s")
    front.close()  # the port-forward led to the pod before
    for what, (text, seconds) in _slow_requests(front, credential, key).items():
        front.transcript.add(f"a slow {what} with readTimeout=0s: {text}", seconds)
        assert seconds > SLOW_SECONDS and "the server's own answer" in text, (what, text, seconds)


def _slow_requests(front: Front, credential: str, key: ClientKey) -> dict[str, tuple[str, float]]:
    """What came of an upload over REST and of one over gRPC that take their time, and after how long."""
    front.port()
    with ThreadPoolExecutor(2) as pool:
        ours = {
            "PUT": pool.submit(_timed, lambda: _slow_put(front)),
            "UploadChunks": pool.submit(_timed, lambda: _slow_chunks(front, credential, key)),
        }
        return {name: future.result() for name, future in ours.items()}


def _timed(call: Call) -> tuple[str, float]:
    started = time.monotonic()
    return call(), time.monotonic() - started


def _slow_put(front: Front) -> str:
    def body() -> Iterator[bytes]:
        until = time.monotonic() + SLOW_SECONDS
        while time.monotonic() < until:
            yield b"x"
            time.sleep(1)

    path = f"/v1/federations/{FEDERATION['name']}/public-set/shards/{'0' * 64}"
    headers = {"Authorization": f"Bearer {front.api_key}"}
    with httpx.Client(base_url=f"https://{REST_HOST}:{front.port()}", verify=_context(front), timeout=120) as client:
        try:
            answer = client.put(path, content=body(), headers=headers)
        except httpx.HTTPError as error:
            return f"{type(error).__name__} {error}"
    ours = "the server's own answer" if "problem+json" in answer.headers.get("content-type", "") else "the controller's"
    return f"{answer.status_code}, {ours}"


def _slow_chunks(front: Front, credential: str, key: ClientKey) -> str:
    def chunks() -> Iterator[aggregator_pb2.UploadChunksRequest]:
        time.sleep(SLOW_SECONDS)
        yield from ()

    with front.grpc_channel() as channel:
        path = "/fedafd.v1.AggregatorService/UploadChunks"
        call = channel.stream_unary(
            path,
            request_serializer=aggregator_pb2.UploadChunksRequest.SerializeToString,
            response_deserializer=None,
        )
        own = (*bearer_metadata(credential), *session_metadata("0" * 16), *key.metadata(credential, path))
        with pytest.raises(grpc.RpcError) as caught:
            call(chunks(), metadata=own, timeout=120)
    text = str(caught.value.details())
    ours = "the server's own answer" if "the stream brought no chunk" in text else text
    return f"{caught.value.code().name}, {ours}"


def _has_met_404(front: Front, site: str) -> bool:
    return "404" in front.releases.kubectl("logs", f"{site}-fedafd-agent-0")


def test_agents_wait_where_no_route_leads_to_the_aggregator(front: Front) -> None:
    front.releases.upgrade(RELEASE, "fedafd", _server(front))
    with front.transcript.step("the agents have noticed that no route is left"):
        for name in SITES:
            wait_until(partial(_has_met_404, front, name), "a 404")
    time.sleep(10)
    assert not any(front.releases.restarts().values()), front.releases.restarts()


def test_an_upgrade_to_the_gateway_serves_the_same_agents(front: Front) -> None:
    gateway = {
        "enabled": True,
        "parentRefs": front.controller.open_gateway(),
        "restHostnames": [REST_HOST],
        "grpcHostnames": [front.controller.grpc_host],
    }
    with front.transcript.step("helm upgrade --wait to HTTPRoute and GRPCRoute, until REST answers"):
        front.releases.upgrade(RELEASE, "fedafd", _server(front, gateway=gateway))
        wait_until(lambda: _answers(front), "REST through the Gateway", seconds=60)
    assert not front.releases.get("ingress")
    _check_what_is_refused(front)
    for name in SITES:
        front.releases.helm("test", name)
    _complete_a_round(front, 2, "a round through the Gateway")
    assert not any(front.releases.restarts().values()), front.releases.restarts()


def _answers(front: Front) -> bool:
    try:
        front.fedafd("federation", "list")
    except CommandFailedError:
        return False
    return True
