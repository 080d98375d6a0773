"""What the processes of `fedafd up` dial: distillers and agents apart, once other machines reach the aggregator."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import httpx
import pytest
import redis
from tests.certificates import Authority
from tests.end_to_end.federation import embedded
from tests.end_to_end.supervised import LoggedSupervisor
from tests.servers import free_port

from fedafd.cli.doctor.machine import _port
from fedafd.client.http import make_client, trust_in
from fedafd.local.services import Services, restart_redis, start_redis
from fedafd.local.supervisor import Supervisor, is_free
from fedafd.proto.v1 import distillation_pb2
from fedafd.proto.v1.aggregator_pb2_grpc import AggregatorServiceStub
from fedafd.proto.v1.distillation_pb2_grpc import DistillationServiceStub
from fedafd.rpc.channel import open_sync_channel
from fedafd.rpc.credentials import bearer_metadata
from fedafd.rpc.own_tls import internal_trust

TOKEN = "internal-token-of-tests"
_LISTEN = "FEDAFD_AGGREGATOR_LISTEN"


def code_of(call: Callable[[], object]) -> grpc.StatusCode:
    try:
        call()
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def services_on(folder: Path, redis_url: str, supervisor: Supervisor, **settings: str) -> Services:
    port = free_port()
    return Services(
        supervisor,
        embedded(folder, redis_url),
        http_port=None,
        grpc_port=port,
        threads=1,
        settings={name: value.replace("PORT", str(port)) for name, value in settings.items()},
        internal_token=TOKEN,
    )


def test_the_redis_of_an_up_answers_nobody_without_its_password_which_no_list_of_processes_shows(
    tmp_path: Path,
) -> None:
    """Pictures that people try models with pass through it, and every user of the machine reaches its port."""
    with LoggedSupervisor(tmp_path / "logs") as supervisor:
        url = start_redis(supervisor, tmp_path)
        parts = urlsplit(url)
        assert parts.password
        for again in (False, True):
            if again:
                (child,) = supervisor.children
                child.process.kill()
                child.process.wait()
                supervisor.forget(child)
                restart_redis(supervisor, url, tmp_path)
                supervisor.wait_until(lambda: not is_free(parts.port or 0), "Redis")
            arguments = " ".join(map(str, supervisor.children[-1].process.args))  # type: ignore[arg-type]
            assert parts.password not in arguments
            assert redis.Redis.from_url(url).ping()
            for stranger in (f"redis://127.0.0.1:{parts.port}/0", f"redis://:guessed@127.0.0.1:{parts.port}/0"):
                with pytest.raises(redis.AuthenticationError):
                    redis.Redis.from_url(stranger).ping()
    assert (tmp_path / "redis" / "redis.conf").stat().st_mode & 0o077 == 0


def test_a_control_plane_with_a_certificate_is_ready_by_whatever_name_is_in_it(tmp_path: Path, redis_url: str) -> None:
    """It was asked over HTTP without end."""
    certificate, key = Authority(tmp_path, "ours").issue("rest", host="fedafd.example.org")
    prefix = "FEDAFD_CONTROL_PLANE_TLS_"
    settings = {f"{prefix}CERTIFICATE": str(certificate), f"{prefix}KEY": str(key)}
    with LoggedSupervisor(tmp_path / "logs") as supervisor:
        services = services_on(tmp_path, redis_url, supervisor, **settings)
        services.migrate()
        services.start_control_plane()
        services.wait_for_control_plane()
        assert services.url.startswith("https://127.0.0.1:")
        with make_client(services.url, trust=trust_in(certificate)) as client:
            assert client.get(f"{services.url}/healthz").status_code == 200
        port = int(services.url.rpartition(":")[2])
        seen = _port("control-plane", "127.0.0.1", port, f"{prefix}PORT", is_http=True, certificate=certificate)
        assert seen.words.endswith("the control-plane answers there")
        other, _ = Authority(tmp_path, "others").issue("another", host="fedafd.example.org")
        with make_client(services.url, trust=trust_in(other)) as client, pytest.raises(httpx.ConnectError):
            client.get(f"{services.url}/healthz")


@pytest.mark.parametrize("more", [{}, {"FEDAFD_AGGREGATOR_PLAINTEXT": "true"}])
def test_where_other_machines_reach_the_agents_port_nobody_is_a_distiller_there(
    more: dict[str, str], tmp_path: Path, redis_url: str
) -> None:
    claim = distillation_pb2.ClaimStageRequest(stage_id="0" * 32, worker="w")
    with LoggedSupervisor(tmp_path / "logs") as supervisor:
        services = services_on(tmp_path, redis_url, supervisor, **{_LISTEN: "0.0.0.0:PORT"} | more)
        services.start(distiller=False)
        told = services.environment("DISTILLER")
        dialled = told["FEDAFD_DISTILLER_AGGREGATOR"]
        assert dialled.startswith("127.0.0.1:") and dialled != services.aggregator
        assert told["FEDAFD_DISTILLER_PLAINTEXT"] == "false"
        line = internal_trust(TOKEN)
        for where, trust, code in (
            (dialled, line, grpc.StatusCode.NOT_FOUND),
            (services.aggregator, None if more else line, grpc.StatusCode.UNIMPLEMENTED),
        ):
            with open_sync_channel(where, trust) as channel:
                method: Any = DistillationServiceStub(channel).ClaimStage
                call = partial(method, claim, metadata=bearer_metadata(TOKEN), timeout=20)
                assert code_of(call) is code, where
        with open_sync_channel(dialled, line) as channel:
            enrol: Any = AggregatorServiceStub(channel).Enroll
            assert code_of(partial(enrol, claim, timeout=20)) is grpc.StatusCode.UNIMPLEMENTED


def test_an_aggregator_on_loopback_has_tls_where_it_is_asked_to(tmp_path: Path, redis_url: str) -> None:
    claim = distillation_pb2.ClaimStageRequest(stage_id="0" * 32, worker="w")
    with LoggedSupervisor(tmp_path / "logs") as supervisor:
        services = services_on(tmp_path, redis_url, supervisor, FEDAFD_AGGREGATOR_PLAINTEXT="false")
        services.start(distiller=False)
        for trust, code in ((internal_trust(TOKEN), grpc.StatusCode.NOT_FOUND), (None, grpc.StatusCode.UNAVAILABLE)):
            with open_sync_channel(services.aggregator, trust) as channel:
                method: Any = DistillationServiceStub(channel).ClaimStage
                assert code_of(partial(method, claim, metadata=bearer_metadata(TOKEN), timeout=20)) is code


@pytest.mark.parametrize(
    ("settings", "dialled", "plain"),
    [
        ({}, "agents", None),
        ({_LISTEN: "127.0.0.1:PORT"}, "agents", None),
        ({_LISTEN: "127.0.0.1:PORT", "FEDAFD_AGGREGATOR_TLS_CERTIFICATE": "c.pem"}, "agents", "false"),
        ({"FEDAFD_AGGREGATOR_PLAINTEXT": "false"}, "agents", "false"),
        ({_LISTEN: "0.0.0.0:PORT", "FEDAFD_AGGREGATOR_INTERNAL_LISTEN": "0.0.0.0:7444"}, "127.0.0.1:7444", "false"),
        ({_LISTEN: "0.0.0.0:PORT", "FEDAFD_DISTILLER_AGGREGATOR": "gpu.example.org:1"}, "gpu.example.org:1", "false"),
        ({_LISTEN: "0.0.0.0:PORT", "FEDAFD_DISTILLER_TLS__AUTHORITIES": "a.pem"}, "agents", "false"),
    ],
)
def test_what_an_operator_set_stays(
    settings: dict[str, str], dialled: str, plain: str | None, tmp_path: Path, redis_url: str
) -> None:
    with LoggedSupervisor(tmp_path / "logs") as supervisor:
        services = services_on(tmp_path, redis_url, supervisor, **settings)
        told = services.environment("DISTILLER")
        wanted = services.aggregator if dialled == "agents" else dialled
        assert told["FEDAFD_DISTILLER_AGGREGATOR"] == wanted
        assert told.get("FEDAFD_DISTILLER_PLAINTEXT") == plain
        given = settings.get("FEDAFD_AGGREGATOR_INTERNAL_LISTEN")
        assert services.environment("AGGREGATOR").get("FEDAFD_AGGREGATOR_INTERNAL_LISTEN") == given
