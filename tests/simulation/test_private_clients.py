"""A simulated client may train by DP-SGD, the same again by its seed, and no farther than its budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.simulation.test_simulate import TINY
from tests.simulation.tiny_federation import clients, config, public_set

from fedafd.domain.config import DpConfig, parse_config
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.simulation.experiment import ExperimentConfig
from fedafd.simulation.federation import Federation, FederationProgress
from fedafd.simulation.run import run_one


def federation(epsilon: float = 500.0, **dp: Any) -> Federation:
    own = DpConfig(epsilon=epsilon, delta=1e-3, samples=40, **dp)
    texts = [replace(each, dp=own) for each in clients() if each.kind is ClientKind.TEXT]
    return Federation(config("fedafd", client={"vocabulary": "public"}), public_set(), texts, device="cpu")


def test_a_round_is_the_same_again_and_noise_changes_it() -> None:
    def sent(here: Federation) -> np.ndarray:
        return here.run_round(FederationProgress()).uploads["text-0"][Modality.TEXT]

    one = sent(federation())
    assert np.array_equal(one, sent(federation()))
    assert not np.array_equal(one, sent(federation(noise_multiplier=3.0)))


def test_rounds_beyond_the_budget_are_refused_by_the_clients_name() -> None:
    with pytest.raises(ConfigurationError, match=r"client text-0: dp\.epsilon is 0\.5, but with round 1"):
        federation(0.5).run_round(FederationProgress())


def test_a_budget_that_ends_before_the_rounds_is_told_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An experiment trained for an hour, and its second round was refused."""
    values = TINY | {"strategies": ["local"], "seeds": [0], "rounds": 40}
    dp = {"epsilon": 20.0, "delta": 1e-3, "samples": 40}
    groups = [group | ({"dp": dp} if group["kind"] == "text" else {}) for group in TINY["clients"]]
    experiment = parse_config(ExperimentConfig, values | {"clients": groups}, "experiment")
    monkeypatch.setattr(Federation, "run_round", lambda *_, **__: pytest.fail("a round was begun"))
    with pytest.raises(ConfigurationError, match=r"client text.*: dp\.epsilon is 20, but with round 40 it would be"):
        run_one(experiment, experiment.runs()[0], tmp_path / "out", device="cpu")


def test_an_experiment_that_has_none_is_described_as_before_and_one_that_has_is_another() -> None:
    plain = parse_config(ExperimentConfig, TINY, "experiment")
    (key, *_) = plain.runs()
    assert "dp" not in plain.described(key)["clients"][0]
    first, *rest = TINY["clients"]
    dp = {"epsilon": 8.0, "delta": 1e-4, "samples": 40}
    private = parse_config(ExperimentConfig, TINY | {"clients": [first | {"dp": dp}, *rest]}, "experiment")
    assert private.described(key) != plain.described(key)
