"""A whole federation of real processes for the end-to-end tests: tiny encoders, few samples, one thread each."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from fedafd.client.answers import RoundDetails
from fedafd.client.federation import FederationClient
from fedafd.local.services import Backends, Services, thread_environment
from fedafd.local.supervisor import Child, Supervisor

SEED = 11
TINY_IMAGE = {
    "architecture": "resnet",
    "image_size": 32,
    "options": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
}
TINY_TEXT = {"architecture": "bigru", "max_tokens": 16, "options": {"embedding_size": 16, "hidden_size": 16}}
FEDERATION: dict[str, Any] = {
    "name": "trial",
    "preset": "small",
    "seed": SEED,
    "embedding_dim": 32,
    "image_encoder": TINY_IMAGE,
    "text_encoder": TINY_TEXT,
    "server": {"passes": 1, "batch_size": 16},
    "client": {"local_epochs": 1},
    "distillation": {"start_round": 1},
    "idle_timeout_seconds": 60,
}
KINDS = {"images": "image", "pairs": "pair", "texts": "text"}


def embedded(folder: Path, redis_url: str) -> Backends:
    """SQLite and a folder as the store, both below `folder`; Redis is real."""
    return Backends(
        database_url=f"sqlite:///{folder}/fedafd.db", redis_url=redis_url, store={"URL": str(folder / "store")}
    )


class Trial:
    """The services, the federation over REST, and agents by name that can be started and killed."""

    def __init__(
        self,
        supervisor: Supervisor,
        backends: Backends,
        folder: Path,
        *,
        distiller: bool = True,
        settings: Mapping[str, str] | None = None,
        sites: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    ) -> None:
        """`sites`: what an agent's file says otherwise, by its name."""
        self.folder = folder
        self._sites = sites
        self.supervisor = supervisor
        self.services = Services(supervisor, backends, http_port=None, threads=1, settings=settings)
        self.dialled: str | None = None
        """Where the agents look for the aggregator; None: where the services have it."""
        self.start_services(distiller=distiller)
        self.rest = FederationClient(self.services.url, self.services.api_key, FEDERATION["name"])
        self._tokens: dict[str, str] = {}

    def start_services(self, *, distiller: bool) -> None:
        self.services.start(distiller=distiller)

    def invite_all(self) -> None:
        for name, kind in KINDS.items():
            self._tokens[name] = self.rest.invite(name, kind)

    def agent_file(self, name: str) -> Path:
        path = self.folder / f"{name}.yaml"
        path.write_text(
            yaml.safe_dump(
                agent_config(
                    name, self.folder / name, self.dialled or self.services.aggregator, self._sites.get(name, {})
                )
            )
        )
        return path

    def start_agent(self, name: str, *, module: str = "fedafd.agent.main") -> Child:
        """Start one agent; from the second time on it lives on its credential."""
        command = [sys.executable, "-m", module, "--config", str(self.agent_file(name))]
        token = self._tokens.pop(name, None)
        environment = thread_environment(1) | ({"FEDAFD_AGENT_ENROLMENT_TOKEN": token} if token else {})
        return self.supervisor.start(f"agent-{name}", command, environment)

    def kill(self, child: Child) -> None:
        """SIGKILL, as a power cut would; the supervisor forgets the child."""
        os.kill(child.process.pid, signal.SIGKILL)
        child.process.wait()
        self.supervisor.forget(child)

    def completed_rounds(self, values: Mapping[str, Any], public: Path, count: int, *, seconds: float) -> RoundDetails:
        """The federation of `values` from its creation on: all sites enrol and deliver in each of `count` rounds.

        The last round's answer; a round may take `seconds`.
        """
        self.rest.create(dict(values))
        self.rest.push_public_set(public)
        self.invite_all()
        for name in KINDS:
            self.start_agent(name)
        self.until(lambda: all(c["state"] == "enrolled" for c in self.rest.clients()), "the agents", seconds=90)
        self.rest.start_rounds(count)
        for number in range(1, count + 1):
            answer = self.rest.wait_for_round(number, lambda _: None, seconds=seconds)
            assert {p["client"]: p["state"] for p in answer["participations"]} == dict.fromkeys(KINDS, "delivered")
        return answer

    def until(self, ready: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
        self.supervisor.wait_until(ready, what, seconds=seconds)


def agent_config(
    name: str, state_dir: Path, aggregator: str, otherwise: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """agent.yaml of one tiny site; `otherwise` wins."""
    kind = KINDS[name]
    config: dict[str, Any] = {
        "aggregator": aggregator,
        "kind": kind,
        "data": {
            "adapter": "shapes",
            "options": {"num_train": 48, "num_val": 16, "num_test": 16, "seed": sorted(KINDS).index(name)},
        },
        "state_dir": str(state_dir),
        "device": os.environ.get("FEDAFD_TEST_DEVICE", "cpu"),
        "threads": 1,
        "share": {"personalized_model": True},
    }
    if kind != "text":
        config["image_encoder"] = TINY_IMAGE
    if kind != "image":
        config["text_encoder"] = TINY_TEXT
    return config | dict(otherwise)
