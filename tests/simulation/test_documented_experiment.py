"""The experiment of docs/simulation.md: it is read as it stands, each setting has an effect, and a small copy runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.documents import blocks

from fedafd.simulation.experiment import RunKey, read_experiment
from fedafd.simulation.no_effect import settings_without_effect
from fedafd.simulation.run import run_one


@pytest.fixture
def documented() -> dict[str, Any]:
    (text,) = (block for block in blocks("docs/simulation.md", "yaml") if block.startswith("name: "))
    values: dict[str, Any] = yaml.safe_load(text)
    return values


def test_it_is_read_as_it_stands_and_each_setting_has_an_effect(documented: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(documented))
    experiment = read_experiment(tmp_path / "experiment.yaml", {}, None)
    assert {(key.scenario, key.strategy) for key in experiment.runs()} == {
        (scenario, strategy) for scenario in ("iid", "skewed") for strategy in ("fedafd", "local", "fedafd-warm")
    }
    assert len(experiment.runs()) == 12
    assert list(settings_without_effect(experiment)) == []
    warm = experiment.federation_config(RunKey(scenario="iid", strategy="fedafd-warm", seed=0))
    assert (warm.strategy, warm.distillation.temperature) == ("fedafd", 0.5)


def test_a_small_copy_of_it_runs(documented: dict[str, Any], tmp_path: Path) -> None:
    torch.set_num_threads(1)
    few = {"num_train": 16, "num_val": 8, "num_test": 8}
    for source in (documented["public"], *documented["clients"]):
        source["options"] |= few
    documented["federation"]["image_encoder"] |= {"image_size": 16}
    documented |= {"rounds": 1, "federation": documented["federation"] | {"client": {"local_epochs": 1}}}
    experiment = read_experiment(None, documented, tmp_path)
    key = RunKey(scenario="skewed", strategy="fedafd-warm", seed=1)
    result = run_one(experiment, key, tmp_path / "out", device="cpu")
    assert {name.split("-")[0] for name in result["clients"]} == {"image", "text", "pair"}
    assert 0 <= result["server"]["metrics"]["rsum"] <= 600
