"""experiment.yaml: presets, lists of strategies, and clear errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fedafd.domain.errors import ConfigurationError
from fedafd.domain.strategies import ABLATIONS, STRATEGIES
from fedafd.simulation.experiment import RunKey, read_experiment

SMALLEST: dict[str, Any] = {
    "public": {"adapter": "shapes"},
    "clients": [{"kind": "image", "adapter": "shapes", "count": 2}],
    "federation": {"preset": "small"},
}


def read(tmp_path: Path, **changes: Any) -> Any:
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(SMALLEST | changes), encoding="utf-8")
    return read_experiment(path, {}, None)


def test_runs_are_strategies_times_scenarios_times_seeds(tmp_path: Path) -> None:
    scenarios = {"iid": {}, "skewed": {"scheme": "dirichlet", "alpha": 0.5}}
    experiment = read(tmp_path, strategies=["fedafd", "local"], scenarios=scenarios, seeds=[3, 4, 5])
    assert len(set(map(str, experiment.runs()))) == 2 * 2 * 3
    assert experiment.federation_config(RunKey(scenario="iid", strategy="local", seed=3)).alignment.mode == "off"


def test_a_strategy_may_add_values_of_its_own(tmp_path: Path) -> None:
    named = {"fedafd": {}, "warmer": {"distillation": {"temperature": 0.5}}}
    experiment = read(tmp_path, strategies=named)
    config = experiment.federation_config(RunKey(scenario="iid", strategy="warmer", seed=0))
    assert config.strategy == "fedafd"
    assert config.distillation.temperature == 0.5


def test_fingerprints_differ_where_results_may(tmp_path: Path) -> None:
    key = RunKey(scenario="iid", strategy="fedafd", seed=0)
    prints = {
        read(tmp_path).fingerprint(key),
        read(tmp_path, rounds=3).fingerprint(key),
        read(tmp_path, federation={"preset": "small", "embedding_dim": 64}).fingerprint(key),
        read(tmp_path, scenarios={"iid": {"scheme": "dirichlet"}}).fingerprint(key),
        read(tmp_path, clients=[SMALLEST["clients"][0] | {"task": {"name": "multi-label"}}]).fingerprint(key),
    }
    assert len(prints) == 5
    assert read(tmp_path, seeds=[0, 1], strategies=["fedafd", "local"]).fingerprint(key) in prints


def test_the_usual_task_is_described_as_runs_of_before_tasks_had_names_were(tmp_path: Path) -> None:
    (group,) = read(tmp_path).described(RunKey(scenario="iid", strategy="fedafd", seed=0))["clients"]
    assert "task" not in group


@pytest.mark.parametrize("preset", ["small", "pretrained", "paper"])
def test_presets_compare_every_strategy_and_ablation(preset: str, tmp_path: Path) -> None:
    experiment = read_experiment(None, {"preset": preset}, tmp_path)
    assert set(experiment.strategies) >= set(STRATEGIES)
    assert len(set(experiment.strategies) & set(ABLATIONS)) >= 6
    assert {scenario.scheme for scenario in experiment.scenarios.values()} == {"iid", "dirichlet"}
    assert all(source.path is not None and source.path.is_absolute() for source in experiment.clients)


def test_the_paper_preset_has_the_papers_numbers(tmp_path: Path) -> None:
    experiment = read_experiment(None, {"preset": "paper"}, tmp_path)
    assert {group.kind.value: group.count for group in experiment.clients} == {"image": 3, "text": 3, "pair": 4}
    assert experiment.rounds == 40
    assert experiment.public.options["limit"] == 10_000
    config = experiment.federation_config(experiment.runs()[0])
    assert (config.preset, config.client.local_epochs, config.embedding_dim) == ("paper", 5, 256)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sedes": [0]}, "sedes: unknown key"),
        ({"seeds": [0, 0]}, "each may stand there once"),
        ({"rounds": 0}, "rounds"),
        ({"baseline": "creamfl"}, "baseline: 'creamfl' is none of the strategies"),
        ({"strategies": {"fedafd": {"distillation": {"tau": 1}}}}, "distillation.tau: unknown key"),
        ({"clients": []}, "clients"),
        ({"clients": [{"kind": "image", "adapter": "shapes", "count": 3, "parts": 2}]}, "fewer than the 3 clients"),
        ({"scenarios": {"iid": {"scheme": "even"}}}, "scenarios.iid.scheme"),
    ],
    ids=str,
)
def test_mistakes_are_named(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path, **changes)
    assert told in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.yaml: cannot be read"):
        read_experiment(tmp_path / "absent.yaml", {}, None)
