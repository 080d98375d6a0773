"""A federation in one process: every strategy, what averaging means, and the same bits twice."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load
from tests.devices import CUDA
from tests.simulation.tiny_federation import FEDERATION, assert_whole, clients, config, public_set, run, run_once

from fedafd.datasets.samples import PairSplit
from fedafd.domain.config import parse_federation_config
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.domain.presets import merged
from fedafd.domain.strategies import ABLATIONS, STRATEGIES
from fedafd.learning.checkpoint import Checkpoint
from fedafd.learning.fedavg import average_updates, group_of, weight_update
from fedafd.learning.server_round import Prepared, initial_server_state, prepare
from fedafd.simulation import server_stages
from fedafd.simulation.federation import Federation, FederationProgress
from fedafd.simulation.server_stages import ServerStages


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def public() -> dict[str, PairSplit]:
    return public_set()


@pytest.mark.parametrize("device", [CUDA])  # on the CPU test_golden.py runs them all
@pytest.mark.parametrize("strategy", sorted({**STRATEGIES, **ABLATIONS}))
def test_every_strategy_runs_two_rounds(strategy: str, device: str, public: dict[str, PairSplit]) -> None:
    assert_whole(run(strategy, public, device=device)[-1], round_number=2)


def test_a_federation_gives_the_same_bits_twice(public: dict[str, PairSplit]) -> None:
    first, second = run_once("fedafd")[-1], run("fedafd", public)[-1]
    assert first.server_state == second.server_state
    assert {n: c.state for n, c in first.clients.items()} == {n: c.state for n, c in second.clients.items()}


def test_without_distillation_the_clients_do_not_reach_the_server() -> None:
    states = [run_once(strategy)[-1].server_state for strategy in ("local", "fedavg", "probe")]
    assert states[0] == states[1] == states[2]
    assert run_once("fedafd")[-1].server_state != states[0]


def test_kept_server_stages_give_the_bits_of_stages_of_its_own(
    public: dict[str, PairSplit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {strategy: run_once(strategy)[-1] for strategy in ("local", "fedafd", "fedavg")}
    made: list[int] = []

    def noted(**given: Any) -> Prepared:
        made.append(given["round_number"])
        return prepare(**given)

    monkeypatch.setattr(server_stages, "prepare", noted)
    for strategy, progress in expected.items():
        federation = Federation(config(strategy), public, clients(), device="cpu", kept_stages=tmp_path)
        found = federation.run_round(federation.run_round(FederationProgress()))
        assert found.server_state == progress.server_state
        assert {n: c.state for n, c in found.clients.items()} == {n: c.state for n, c in progress.clients.items()}
    # Rounds 1 and 2 of the first; fedafd distils in round 1, so that only its second is its own.
    assert config("fedafd").distillation.start_round == 1
    assert made == [1, 2, 2]
    assert not [path for path in tmp_path.rglob(".part-*")]


def test_stages_of_other_server_settings_are_not_taken(public: dict[str, PairSplit], tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"server": {"initial_passes": 2}},
        {"server": {"learning_rate": 0.01}},
        {"seed": 9},
    ]
    states = set()
    for change in changes:
        values = merged({"name": "tiny", "strategy": "local"} | FEDERATION, change)
        stages = ServerStages(parse_federation_config(values), public["train"], device="cpu", folder=tmp_path)
        seed = values.get("seed", 0)
        start = initial_server_state(config=config("local"), captions=public["train"].captions, seed=seed)
        states.add(stages.prepare(start, 1, seed).state)
    states.add(stages.prepare(start, 2, seed).state)
    assert len(states) == len(changes) + 1


def test_a_full_disk_while_keeping_a_stage_does_not_end_the_run(public: dict[str, PairSplit], tmp_path: Path) -> None:
    stages = ServerStages(config("local"), public["train"], device="cpu", folder=tmp_path / "kept")
    start = initial_server_state(config=config("local"), captions=public["train"].captions, seed=0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            (tmp_path / "any").write_bytes(bytes(1001))
        made = stages.prepare(start, 1, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert made.state == stages.prepare(start, 1, 0).state
    assert len(list((tmp_path / "kept").iterdir())) == 1  # the second time there was room


def test_a_probe_of_pairs_is_the_frozen_global_model() -> None:
    metrics = run_once("probe")[0].clients["pair-0"].metrics
    assert metrics["federated/rsum"] == metrics["global/rsum"]


def test_averaging_starts_alike_and_weighs_by_private_samples() -> None:
    first, second = run_once("fedavg")
    states = {name: progress.state or b"" for name, progress in first.clients.items()}
    assert len({group_of(state) for state in states.values()}) == 3
    for kind in ClientKind:
        parts = [load(states[f"{kind.value}-{n}"]) for n in (0, 1)]
        average = load(first.averages[group_of(states[f"{kind.value}-0"])])
        names = Checkpoint.from_bytes(states[f"{kind.value}-0"]).meta["labels"]
        for part in parts if names else ():
            # On the way the rows are in the order of the classes' names.
            part["model/head.free_weight"] = part["model/head.free_weight"][
                sorted(range(len(names)), key=names.__getitem__)
            ]
        for key, value in average.items():
            if value.is_floating_point():
                wanted = (parts[0][key].double() * 40 + parts[1][key].double() * 24) / 64
                torch.testing.assert_close(value.double(), wanted, rtol=1e-6, atol=1e-7)
    assert second.averages.keys() == first.averages.keys()


def test_an_update_that_does_not_fit_is_refused() -> None:
    state = run_once("fedavg")[0].clients["image-0"].state or b""
    with pytest.raises(DataError, match="a number of private samples is -1"):
        average_updates([weight_update(state, -1)])
    with pytest.raises(DataError, match="not a readable state"):
        average_updates([b"broken"])


def test_weights_by_similarity_differ_from_the_mean(public: dict[str, PairSplit]) -> None:
    last = run_once("fedafd")[0]
    federation = {mode: Federation(config(mode), public, clients(), device="cpu") for mode in ("fedafd", "fedafd-mean")}
    both = {mode: f._aggregates(last.uploads, last.ages, last.representations)[0] for mode, f in federation.items()}
    for modality in Modality:
        assert not np.array_equal(both["fedafd"][modality], both["fedafd-mean"][modality])


def test_a_stale_client_counts_only_where_the_configuration_says_so(public: dict[str, PairSplit]) -> None:
    def second_round(**distillation: object) -> tuple[FederationProgress, bytes | None]:
        values = FEDERATION | {"distillation": {"start_round": 1, **distillation}}
        federation = Federation(parse_federation_config({"name": "tiny", **values}), public, clients(), device="cpu")
        first = federation.run_round(FederationProgress())
        second = federation.run_round(first, absent=["pair-0", "pair-1"])
        assert second.clients["pair-0"] == first.clients["pair-0"]
        assert second.ages == {"image-0": 0, "image-1": 0, "text-0": 0, "text-1": 0, "pair-0": 1, "pair-1": 1}
        return second, second.server_state

    left_out = second_round()[1]
    kept = second_round(staleness_decay=0.5)[1]
    assert left_out != kept
    assert second_round(staleness_decay=1e-30)[1] != kept
