"""Every strategy through the real services gives, bit for bit, what the simulation gives."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.end_to_end.federation import FEDERATION, TINY_IMAGE, TINY_TEXT
from tests.end_to_end.supervised import LoggedSupervisor

from fedafd.client.federation import FederationClient
from fedafd.datasets import PublicSet, load_client_data, load_public_data, write_public_set
from fedafd.domain.config import EncoderConfig, parse_federation_config
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import ClientKind
from fedafd.domain.strategies import ABLATIONS, STRATEGIES
from fedafd.local.services import Backends, Services, thread_environment
from fedafd.local.supervisor import Child
from fedafd.simulation.federation import Federation, FederationProgress, SimulatedClient

pytestmark = pytest.mark.timeout(560)

# Federation -> its clients' kinds. Two text clients average with each other; a pair client holds both encoders.
COHORTS: dict[str, dict[str, str]] = {
    "fedavg": {"text-a": "text", "text-b": "text"},
    "creamfl": {"pair-a": "pair"},
    "fedmd": {"pair-a": "pair"},
    "probe": {"pair-a": "pair"},
    "local": {"image-a": "image"},
    "self-distillation": {"text-a": "text"},
    "fedafd": {"image-a": "image", "pair-a": "pair", "text-a": "text"},
    "fedafd-tokens": {"pair-a": "pair"},
    **{name: {"image-a": "image"} for name in sorted(ABLATIONS.keys() - {"fedafd-tokens"})},
}
ROUNDS = {"fedavg": 2}
_AT_ONCE = 6
"""Federations whose agents run side by side: more of them need more memory, and no less time."""


def data_options(name: str, num_train: int = 32) -> dict[str, Any]:
    return {"num_train": num_train, "num_val": 8, "num_test": 8, "seed": sum(map(ord, name))}


def values(strategy: str) -> dict[str, Any]:
    return FEDERATION | {"name": strategy, "strategy": strategy}


def simulated(strategy: str, public: PublicSet) -> FederationProgress:
    clients = [
        SimulatedClient(
            name=name,
            kind=ClientKind(kind),
            data=load_client_data("shapes", None, ClientKind(kind), data_options(name)),
            image_encoder=EncoderConfig.model_validate(TINY_IMAGE),
            text_encoder=EncoderConfig.model_validate(TINY_TEXT),
        )
        for name, kind in COHORTS[strategy].items()
    ]
    splits = {split: public.split(split) for split in ("train", "val", "test")}
    config = parse_federation_config(values(strategy))
    sha256 = public.manifest.sha256
    federation = Federation(config, splits, clients, device="cpu", public_set_sha256=sha256)
    progress = FederationProgress()
    for _ in range(ROUNDS.get(strategy, 1)):
        progress = federation.run_round(progress)
    return progress


def test_services_and_simulation_give_the_same_bits(tmp_path: Path, redis_url: str) -> None:
    assert COHORTS.keys() == {**STRATEGIES, **ABLATIONS}.keys()
    torch.set_num_threads(1)
    folder = tmp_path / "public-set"
    write_public_set(
        load_public_data("shapes", None, {"num_train": 48, "num_val": 8, "num_test": 16, "seed": 5}), folder
    )
    redis = redis_url.removesuffix("/0") + "/3"
    store = tmp_path / "store"
    backends = Backends(database_url=f"sqlite:///{tmp_path}/f.db", redis_url=redis, store={"URL": str(store)})
    with LoggedSupervisor(tmp_path / "logs") as supervisor:
        services = Services(supervisor, backends, http_port=None, threads=1)
        services.start()
        strategies = list(COHORTS)
        bytes_up: dict[str, dict[str, int]] = {}
        for first in range(0, len(strategies), _AT_ONCE):
            bytes_up |= _run(strategies[first : first + _AT_ONCE], services, folder, tmp_path)

    public = PublicSet.open(folder)
    for strategy in COHORTS:
        wanted = simulated(strategy, public)
        place = store / "federations" / strategy / "rounds" / str(wanted.round_number)
        stored = {path.name for path in place.rglob("*") if path.is_file()}
        assert sha256_of(wanted.server_state or b"") in stored, strategy
        assert bytes_up[strategy] == {name: traffic.up for name, traffic in wanted.traffic.items()}
        for group, average in wanted.averages.items():
            assert sha256_of(average) in stored, group
    assert len(list((store / "federations" / "fedavg" / "rounds").rglob("weights/*"))) >= 4


def _run(strategies: Sequence[str], services: Services, public: Path, folder: Path) -> dict[str, dict[str, int]]:
    """Their rounds, side by side. Returns by strategy what each client sent in the last one, in bytes."""
    agents: list[Child] = []
    bytes_up: dict[str, dict[str, int]] = {}
    rests = [FederationClient(services.url, services.api_key, strategy) for strategy in strategies]
    for rest, strategy in zip(rests, strategies, strict=True):
        rest.create(values(strategy))
        rest.push_public_set(public)
        for name, kind in COHORTS[strategy].items():
            file = folder / f"{strategy}-{name}.yaml"
            file.write_text(yaml.safe_dump(_agent(folder, strategy, name, kind, services.aggregator)))
            command = [sys.executable, "-m", "fedafd.agent.main", "--config", str(file)]
            token = {"FEDAFD_AGENT_ENROLMENT_TOKEN": rest.invite(name, kind)}
            agents.append(services.supervisor.start(file.stem, command, thread_environment(1) | token))
    services.supervisor.wait_until(
        lambda: all(client["state"] == "enrolled" for rest in rests for client in rest.clients()), "agents", seconds=90
    )
    for rest, strategy in zip(rests, strategies, strict=True):
        rest.start_rounds(ROUNDS.get(strategy, 1))
    for rest, strategy in zip(rests, strategies, strict=True):
        for number in range(1, ROUNDS.get(strategy, 1) + 1):
            done = rest.wait_for_round(number, lambda _: None, seconds=150)
        bytes_up[strategy] = {part["client"]: part["bytes_up"] for part in done["participations"]}
        rest.close()
    for agent in agents:
        agent.process.kill()
        agent.process.wait()
        services.supervisor.forget(agent)
    return bytes_up


def _agent(folder: Path, strategy: str, name: str, kind: str, aggregator: str) -> dict[str, Any]:
    return {
        "aggregator": aggregator,
        "kind": kind,
        "data": {"adapter": "shapes", "options": data_options(name)},
        "state_dir": str(folder / strategy / name),
        "image_encoder": TINY_IMAGE,
        "text_encoder": TINY_TEXT,
        "device": "cpu",
        "threads": 1,
        "share": {"weights": strategy == "fedavg"},
    }
