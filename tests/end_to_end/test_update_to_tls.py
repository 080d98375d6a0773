"""The steps of docs/tls.md, "Update from a version without TLS", done on real processes that listen off loopback."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from tests.end_to_end.federation import Trial, agent_config, embedded
from tests.end_to_end.supervised import LoggedSupervisor
from tests.end_to_end.test_certificates import before_keys, certificate, ended, kinds, said, stopped

from fedafd.distiller.settings import DistillerSettings, line_to_aggregator
from fedafd.local.services import thread_environment
from fedafd.local.supervisor import Child, Supervisor
from fedafd.proto.v1 import distillation_pb2 as dpb
from fedafd.proto.v1.distillation_pb2_grpc import DistillationServiceStub
from fedafd.rpc.channel import open_sync_channel
from fedafd.rpc.credentials import bearer_metadata
from fedafd.storage import StoreSettings

PLAINTEXT = "FEDAFD_AGGREGATOR_PLAINTEXT"
REQUIRE_KEYS = "FEDAFD_AGGREGATOR_REQUIRE_CLIENT_KEYS"


class OffLoopback(Trial):
    """An aggregator that other machines reach."""

    @property
    def address(self) -> str:
        """Not loopback by name, and leads here."""
        return "0.0.0.0:" + self.services.aggregator.rpartition(":")[2]

    def start_services(self, *, distiller: bool) -> None:
        self.services._settings["FEDAFD_AGGREGATOR_LISTEN"] = self.address
        super().start_services(distiller=distiller)

    def agent(self, name: str, *arguments: str, **otherwise: Any) -> Child:
        """The one site's agent; `name` is its log's."""
        path = self.folder / "agent.yaml"
        path.write_text(yaml.safe_dump(agent_config("images", self.folder / "site", self.address, otherwise)))
        command = [sys.executable, "-m", "fedafd.agent.main", "--config", str(path), *arguments]
        return self.supervisor.start(name, command, thread_environment(1), may_end=True)

    def idles(self, child: Child) -> None:
        self.until(lambda: bool(said(child, "agent.idle")), child.name)

    def distiller_gets_through(self, *, plaintext: bool | None) -> bool:
        """Whether a distiller with that setting is heard, and its internal token taken."""
        token = self.services._internal_token
        settings = DistillerSettings(
            aggregator=self.address,
            plaintext=plaintext,
            redis_url=self.services.backends.redis_url,
            store=StoreSettings(url=str(self.folder / "store")),
            internal_token=token,
        )
        with open_sync_channel(self.address, line_to_aggregator(settings)) as channel:
            claim = dpb.ClaimStageRequest(stage_id="0" * 32, worker="script")
            try:
                DistillationServiceStub(channel).ClaimStage(claim, metadata=bearer_metadata(token), timeout=20)
            except grpc.RpcError as error:
                return error.code() is grpc.StatusCode.NOT_FOUND
        raise AssertionError("there is no such stage")


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with LoggedSupervisor(tmp_path / "logs") as started:
        yield started


def test_a_deployment_without_tls_goes_over_site_by_site(
    supervisor: Supervisor, tmp_path: Path, redis_url: str
) -> None:
    backends, site = embedded(tmp_path, redis_url), tmp_path / "site"
    secrets = before_keys(backends.database_url)
    site.mkdir()
    old = {"federation_id": "trial", "client_id": "images".ljust(32, "0"), "client_name": "images", "kind": "image"}
    (site / "credential.json").write_text(json.dumps(old | {"secret": secrets["images"]}))
    (site / "history.keep").write_text("what the site has")

    # 1. The server is updated, and goes on without TLS.
    of_the_update = {PLAINTEXT: "true", REQUIRE_KEYS: "false"}
    trial = OffLoopback(supervisor, backends, tmp_path, distiller=False, settings=of_the_update)
    assert trial.distiller_gets_through(plaintext=True)

    # 2. The agent is updated, with `plaintext: true`: it makes its key and goes on.
    first = trial.agent("updated", plaintext=True)
    trial.idles(first)
    trial.until(lambda: "client.key_bound" in kinds(trial), "the key's binding")
    trial.until(lambda: bool(certificate(trial)), "the certificate")
    stopped(trial, first)

    # 3. The server speaks TLS: to distillers by the token that they share, and to nobody without.
    (running,) = (child for child in supervisor.children if child.name == "aggregator")
    trial.kill(running)
    for name in of_the_update:
        del trial.services._settings[name]
    trial.services.start_aggregator()
    trial.until(lambda: trial.distiller_gets_through(plaintext=None), "a distiller")
    assert not trial.distiller_gets_through(plaintext=True)
    waiting = trial.agent("not-yet", plaintext=True)
    trial.until(lambda: "closed the connection" in waiting.log.read_text(), "its refusal")
    assert not said(waiting, "agent.idle")
    waiting.process.terminate()
    ended(trial, waiting)

    # 4. A new invitation and no `plaintext`: the same client, and all that its site has.
    again = trial.agent("with-tls", "--token", trial.rest.invite_again("images"))
    trial.idles(again)
    assert (site / "authority.pem").exists() and (site / "history.keep").exists()
    assert json.loads((site / "credential.json").read_text())["client_id"] == old["client_id"]
    stopped(trial, again)
    trial.idles(trial.agent("afterwards"))
