"""Real pretrained weights through the real services: LoRA and frozen backbones, bit for bit what the simulation has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.end_to_end.federation import FEDERATION, KINDS, Trial, embedded
from tests.end_to_end.supervised import LoggedSupervisor
from tests.learning.test_real_weights import weights

from fedafd import GlobalModel
from fedafd.agent.ledger import read_sent
from fedafd.datasets import PublicSet, load_client_data, load_public_data, write_public_set
from fedafd.domain.config import parse_federation_config
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import ClientKind
from fedafd.simulation.federation import Federation, FederationProgress, SimulatedClient

pytestmark = pytest.mark.timeout(900)
ROUNDS = 2
FEW = {"num_train": 16, "num_val": 8, "num_test": 8}
SITES: dict[str, dict[str, Any]] = {
    name: {"data": {"adapter": "shapes", "options": FEW | {"seed": seed}}} for seed, name in enumerate(sorted(KINDS))
}


@pytest.fixture
def trial(tmp_path: Path, redis_url: str) -> Iterator[Trial]:
    with LoggedSupervisor(tmp_path / "logs") as supervisor:
        backends = embedded(tmp_path, redis_url.removesuffix("/0") + "/8")
        trial = Trial(supervisor, backends, tmp_path, sites=SITES)
        yield trial
        trial.rest.close()


@pytest.mark.parametrize(("trainable", "text"), [("lora", "minilm-half"), ("head", "minilm")])
def test_services_and_simulation_train_real_weights_to_the_same_bits(
    trainable: str, text: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = _federation(trainable, text)
    own = parse_federation_config(values)  # sites name the same folders themselves: a server's are not taken
    encoders = {key: getattr(own, key).model_dump(mode="json") for key in ("image_encoder", "text_encoder")}
    base = {"base_weights": {key.removesuffix("_encoder"): each["pretrained"] for key, each in encoders.items()}}
    monkeypatch.setattr(
        "tests.end_to_end.test_real_weights.SITES", {name: each | encoders | base for name, each in SITES.items()}
    )
    trial: Trial = request.getfixturevalue("trial")  # only now, as starting it takes longer than a skip
    last = _trained(trial, values, tmp_path / "public-set")
    wanted = _simulated(values, tmp_path / "public-set")

    stored = {path.name for path in (tmp_path / "store/federations/trial/rounds" / str(ROUNDS)).rglob("*")}
    assert sha256_of(wanted.server_state or b"") in stored
    down = {part["client"]: part["bytes_down"] for part in last["participations"]}
    assert down == {name: traffic.down for name, traffic in wanted.traffic.items()}
    assert max(down.values()) < 2_000_000, "what is frozen does not travel again"
    first = {part["client"]: part["bytes_down"] for part in trial.rest.round(1)["participations"]}
    assert max(first.values()) < 5_000_000, "nor the first time, to a site that has the checkpoints"
    sent = [entry for name in KINDS for entry in read_sent(tmp_path / name) if entry.what == "personalized-model"]
    assert max(entry.bytes for entry in sent if entry.round == ROUNDS) < 2_000_000, "nor does it go up"
    trial.rest.pull_global_model(tmp_path / "global")
    rows = GlobalModel.from_pretrained(tmp_path / "global").embed_texts(["a large red circle"])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def _federation(trainable: str, text: str) -> dict[str, Any]:
    pytest.importorskip("timm", reason="the extra `vision` is not installed")
    return FEDERATION | {
        "preset": "pretrained",
        "image_encoder": {"pretrained": weights("lite0"), "image_size": 32, "trainable": trainable},
        "text_encoder": {"pretrained": weights(text), "max_tokens": 16, "trainable": trainable},
        "server": {"initial_passes": 0, "passes": 1, "batch_size": 16},
    }


def _trained(trial: Trial, values: dict[str, Any], public: Path) -> Mapping[str, Any]:
    """What the services tell of the last round."""
    write_public_set(load_public_data("shapes", None, FEW | {"seed": 5}), public)
    return trial.completed_rounds(values, public, ROUNDS, seconds=360)


def _simulated(values: Mapping[str, Any], folder: Path) -> FederationProgress:
    torch.set_num_threads(1)
    public = PublicSet.open(folder)
    clients = []
    for name, kind in sorted(KINDS.items()):
        data = load_client_data("shapes", None, ClientKind(kind), SITES[name]["data"]["options"])
        clients.append(SimulatedClient(name=name, kind=ClientKind(kind), data=data))
    splits = {split: public.split(split) for split in ("train", "val", "test")}
    config = parse_federation_config(values)
    federation = Federation(config, splits, clients, device="cpu", public_set_sha256=public.manifest.sha256)
    progress = FederationProgress()
    for _ in range(ROUNDS):
        progress = federation.run_round(progress)
    return progress
