"""The data of a run: every client has something to train on, to choose by and to be tested on, or is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.simulation.test_simulate import TINY

from fedafd.datasets import ClientData, load_client_data
from fedafd.domain.errors import DataError
from fedafd.simulation import data
from fedafd.simulation.data import data_prints, load_run_data
from fedafd.simulation.experiment import ExperimentConfig, read_experiment
from fedafd.simulation.run import run_one


def experiment(**changes: Any) -> ExperimentConfig:
    return read_experiment(None, TINY | {"strategies": ["local"], "rounds": 1} | changes, Path("/"))


def images(count: int, **options: int) -> dict[str, Any]:
    held = {"num_train": 48, "num_val": 8, "num_test": 16, "seed": 2} | options
    return {"clients": [{"kind": "image", "count": count, "adapter": "shapes", "options": held}]}


def test_more_clients_than_samples_are_refused_by_name() -> None:
    with pytest.raises(DataError) as refused:
        data_prints(experiment(**images(9, num_train=8)))
    assert str(refused.value).startswith(
        "clients[0] (image, shapes): 8 training samples for 9 parts: image-0-008 would have none"
    )


@settings(max_examples=15, deadline=None)
@given(alpha=st.floats(0.001, 10.0), seed=st.integers(0, 1000), count=st.integers(1, 20))
def test_every_client_of_a_skewed_scenario_has_a_sample(alpha: float, seed: int, count: int) -> None:
    skewed = experiment(seeds=[seed], scenarios={"skewed": {"scheme": "dirichlet", "alpha": alpha}}, **images(count))
    shares = [len(client.data.train) for client in load_run_data(skewed, skewed.runs()[0]).clients]
    assert min(shares) >= 1
    assert sum(shares) == 48


def test_clients_of_one_sample_train(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    skewed = experiment(scenarios={"skewed": {"scheme": "dirichlet", "alpha": 0.01}}, **images(10, num_train=60))
    key = skewed.runs()[0]
    shares = [len(client.data.train) for client in load_run_data(skewed, key).clients]
    assert min(shares) == 1
    result = run_one(skewed, key, tmp_path, device="cpu")
    assert len(result["clients"]) == 10


@pytest.mark.parametrize("split", ["val", "test"])
def test_an_empty_split_is_refused_by_name(split: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def emptied(*given: Any) -> ClientData:
        held = load_client_data(*given)
        return replace(held, **{split: getattr(held, split).take([])})

    monkeypatch.setattr(data, "load_client_data", emptied)
    with pytest.raises(DataError, match=rf"clients\[0\] \(image, shapes\): the split {split} has no sample, and "):
        data.data_prints(experiment(**images(2)))
