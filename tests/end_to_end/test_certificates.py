"""What docs/certificates.md tells operators to do about clients' keys and the authority, done on real processes."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import MetaData, create_engine
from tests.end_to_end.federation import FEDERATION, Trial, agent_config, embedded
from tests.end_to_end.supervised import LoggedSupervisor

from fedafd.agent.exit_codes import ExitCode
from fedafd.domain.config import parse_federation_config
from fedafd.domain.secrets import SecretKind, hash_secret, new_secret, token_and_pin
from fedafd.local.services import thread_environment
from fedafd.local.supervisor import Child, Supervisor
from fedafd.persistence.database import driver_url
from fedafd.persistence.migrate import migrate
from fedafd.persistence.models import utc_now
from fedafd.proto.v1 import aggregator_pb2 as pb
from fedafd.proto.v1 import types_pb2
from fedafd.proto.v1.aggregator_pb2_grpc import AggregatorServiceStub
from fedafd.rpc.authority import new_authority
from fedafd.rpc.credentials import bearer_metadata
from fedafd.rpc.sessions import session_metadata

BEFORE_KEYS = "0010"
"""The last revision of the schema before a credential was bound to a key (docs/adr/0022)."""


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with LoggedSupervisor(tmp_path / "logs") as started:
        yield started


def start(trial: Trial, name: str, *arguments: str) -> Child:
    """The agent of the state folder `site`; `name` is its log's."""
    path = trial.folder / "agent.yaml"
    path.write_text(yaml.safe_dump(agent_config("images", trial.folder / "site", trial.services.aggregator)))
    command = [sys.executable, "-m", "fedafd.agent.main", "--config", str(path), *arguments]
    return trial.supervisor.start(name, command, thread_environment(1), may_end=True)


def said(child: Child, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in child.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("event") == event]


def goes_on(trial: Trial, child: Child) -> None:
    trial.until(lambda: bool(said(child, "agent.idle")), "the agent")


def ended(trial: Trial, child: Child) -> tuple[int, str]:
    trial.supervisor.forget(child)
    status = child.process.wait(60)
    return status, child.log.read_text()


def stopped(trial: Trial, child: Child) -> None:
    child.process.terminate()
    assert ended(trial, child)[0] == 0


def with_aggregator(trial: Trial, **settings: str) -> None:
    """Start the aggregator again, with further settings."""
    (running,) = (each for each in trial.supervisor.children if each.name.startswith("aggregator"))
    trial.kill(running)
    trial.services._settings |= {f"FEDAFD_AGGREGATOR_{name}": value for name, value in settings.items()}
    trial.services.start_aggregator()


def certificate(trial: Trial) -> str:
    return str(json.loads((trial.folder / "site" / "credential.json").read_text())["certificate"])


def invited_again(trial: Trial) -> tuple[str, str]:
    return "--token", trial.rest.invite_again("images")


def kinds(trial: Trial) -> list[str]:
    return [each["kind"] for each in trial.rest.events()]


def bearer_alone(trial: Trial, secret: str) -> grpc.StatusCode:
    """How a call ends that carries a credential and no proof."""
    with grpc.insecure_channel(trial.services.aggregator) as channel:
        metadata = (*bearer_metadata(secret), *session_metadata("0" * 16))
        stub = AggregatorServiceStub(channel)
        try:
            stub.FetchTask(pb.FetchTaskRequest(), metadata=metadata, wait_for_ready=True)
            stub.EndSession(pb.EndSessionRequest(), metadata=metadata)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK


def before_keys(url: str) -> dict[str, str]:
    """A database of the version before, with two clients that are bearers; their credentials by name."""
    migrate(url, BEFORE_KEYS)
    secrets = {name: new_secret(SecretKind.CREDENTIAL) for name in ("images", "later")}
    engine, metadata = create_engine(driver_url(url, asynchronous=False)), MetaData()
    metadata.reflect(engine)
    config, now = parse_federation_config(FEDERATION).model_dump(mode="json"), utc_now()
    with engine.begin() as connection:
        federation = {"id": "trial", "config": config, "config_version": 1, "created_at": now}
        connection.execute(metadata.tables["federations"].insert(), federation)
        for name, secret in secrets.items():
            row: dict[str, Any] = {"id": name.ljust(32, "0"), "federation_id": "trial", "name": name, "kind": "image"}
            row |= {"credential_hash": hash_secret(secret), "enrolled_at": now, "created_at": now}
            connection.execute(metadata.tables["clients"].insert(), row)
    engine.dispose()
    return secrets


def test_a_deployment_of_bearers_goes_over_to_keys(supervisor: Supervisor, tmp_path: Path, redis_url: str) -> None:
    backends = embedded(tmp_path, redis_url)
    secrets = before_keys(backends.database_url)
    (tmp_path / "site").mkdir()
    old = {"federation_id": "trial", "client_id": "images".ljust(32, "0"), "client_name": "images", "kind": "image"}
    (tmp_path / "site" / "credential.json").write_text(json.dumps(old | {"secret": secrets["images"]}))
    # A server as it comes takes no bearer alone: the documented setting is for the time of the transition.
    trial = Trial(supervisor, backends, tmp_path, distiller=False)
    assert bearer_alone(trial, secrets["images"]) is grpc.StatusCode.UNAUTHENTICATED
    with_aggregator(trial, REQUIRE_CLIENT_KEYS="false")

    # Who is not updated goes on; who is gets a key by itself, and its bearer alone is worth nothing any more.
    assert bearer_alone(trial, secrets["images"]) is grpc.StatusCode.OK
    assert bearer_alone(trial, secrets["later"]) is grpc.StatusCode.OK
    updated = start(trial, "updated")
    goes_on(trial, updated)
    trial.until(lambda: "client.key_bound" in kinds(trial), "the key's binding")
    trial.until(lambda: bool(certificate(trial)), "the certificate")
    assert bearer_alone(trial, secrets["images"]) is grpc.StatusCode.UNAUTHENTICATED
    assert bearer_alone(trial, secrets["later"]) is grpc.StatusCode.OK

    with_aggregator(trial, REQUIRE_CLIENT_KEYS="true")
    assert bearer_alone(trial, secrets["later"]) is grpc.StatusCode.UNAUTHENTICATED
    stopped(trial, updated)
    goes_on(trial, start(trial, "afterwards"))


def test_a_server_as_it_comes_enrols_nobody_without_a_key(
    supervisor: Supervisor, tmp_path: Path, redis_url: str
) -> None:
    trial = Trial(supervisor, embedded(tmp_path, redis_url), tmp_path, distiller=False)
    trial.rest.create(FEDERATION)
    token = trial.rest.invite("images", "image")
    with grpc.insecure_channel(trial.services.aggregator) as channel:
        without = pb.EnrollRequest(token=token_and_pin(token)[0], kind=types_pb2.CLIENT_KIND_IMAGE)
        with pytest.raises(grpc.RpcError) as raised:
            AggregatorServiceStub(channel).Enroll(without, wait_for_ready=True)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "comes without a key" in str(raised.value.details())
    goes_on(trial, start(trial, "with-key", "--token", token))


def test_a_lost_key_and_another_authority_need_a_new_invitation(
    supervisor: Supervisor, tmp_path: Path, redis_url: str
) -> None:
    trial = Trial(supervisor, embedded(tmp_path, redis_url), tmp_path, distiller=False)
    trial.rest.create(FEDERATION)
    first = start(trial, "first", "--token", trial.rest.invite("images", "image"))
    goes_on(trial, first)
    stopped(trial, first)

    (tmp_path / "site" / "credential.json").unlink()
    status, log = ended(trial, start(trial, "without-key"))
    assert status == ExitCode.CONFIGURATION
    assert "token" in log
    again = start(trial, "new-key", *invited_again(trial))
    goes_on(trial, again)
    stopped(trial, again)

    own = new_authority()
    (tmp_path / "own.pem").write_text(own.certificate_pem())
    (tmp_path / "own.key").write_bytes(own.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with_aggregator(trial, AUTHORITY_CERTIFICATE=str(tmp_path / "own.pem"), AUTHORITY_KEY=str(tmp_path / "own.key"))
    status, log = ended(trial, start(trial, "other-authority"))
    assert status == ExitCode.REFUSED
    assert "not one that this federation's authority signed" in log
    goes_on(trial, start(trial, "invited", *invited_again(trial)))
    own.read_client(base64.b64decode(certificate(trial)))
