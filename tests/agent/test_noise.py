"""Noise on representations is as long as asked, nobody can subtract it, and its worth is told honestly."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load
from tests.agent.compared import ComparedSite
from tests.agent.test_training import TASK

from fedafd.agent.explain import explained
from fedafd.agent.noise import gaussian_epsilon, noised
from fedafd.domain.config import AgentConfig, parse_agent_config
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import Modality


def rows(num: int = 400, dim: int = 64) -> dict[Modality, np.ndarray]:
    made = np.random.default_rng(3).normal(size=(num, dim)).astype(np.float32)
    return {Modality.TEXT: made / np.linalg.norm(made, axis=1, keepdims=True)}


@pytest.mark.parametrize("noise", [0.1, 0.5, 2.0])
def test_noised_rows_are_unit_rows_as_far_from_the_true_ones_as_asked(noise: float) -> None:
    true, told = rows()[Modality.TEXT], noised(rows(), noise)[Modality.TEXT]
    assert np.allclose(np.linalg.norm(told, axis=1), 1, atol=1e-5) and told.dtype == np.float32
    # A row beside independent noise of that length has this cosine with the row alone.
    assert float((true * told).sum(1).mean()) == pytest.approx(1 / math.sqrt(1 + noise**2), abs=0.02)


def test_the_same_rows_have_other_noise_each_time_and_without_it_stay_as_they_are() -> None:
    one, two = noised(rows(), 0.5)[Modality.TEXT], noised(rows(), 0.5)[Modality.TEXT]
    assert np.abs(one - two).max() > 0.1
    assert np.array_equal(noised(rows(), 0.0)[Modality.TEXT], rows()[Modality.TEXT])


def test_epsilon_is_of_the_gaussian_mechanism_and_grows_with_rows_and_rounds() -> None:
    # rho = 4 N D / (2 noise^2) = 2 for N D = 1 and noise 1
    assert gaussian_epsilon(1.0, num_rows=1, dim=1, delta=math.exp(-1)) == pytest.approx(2 + 2 * math.sqrt(2))
    assert gaussian_epsilon(0.0, num_rows=1, dim=1) == math.inf
    small = gaussian_epsilon(1.0, num_rows=100, dim=8)
    assert small < gaussian_epsilon(1.0, num_rows=200, dim=8) < gaussian_epsilon(1.0, num_rows=200, dim=8, rounds=2)
    assert gaussian_epsilon(1e6, num_rows=100, dim=8) < 0.01


def test_what_a_site_delivers_is_noised_and_its_own_state_is_not(tmp_path: Path) -> None:
    made = {}
    for noise in (0.0, 1.0):
        (tmp_path / str(noise)).mkdir()
        site = ComparedSite(tmp_path / str(noise), share={"representation_noise": noise})
        made[noise] = site.train(1)
    plain, noisy = made.values()
    assert load(plain.state).keys() == load(noisy.state).keys()
    for name, tensor in load(plain.state).items():
        assert np.array_equal(tensor, load(noisy.state)[name]), name
    both = [load(each.representations)["text"].astype(np.float32) for each in (plain, noisy)]
    cosines = (both[0] * both[1]).sum(1)
    assert 0.5 < float(cosines.mean()) < 0.9


def test_a_result_that_was_made_without_noise_is_not_delivered_once_noise_is_asked_for() -> None:
    noisy = dataclasses.replace(TASK, representation_noise=0.5)
    assert noisy.key() != TASK.key()


def test_explain_says_what_the_noise_is_and_what_it_is_not() -> None:
    told = "\n".join(explained(agent(0.5)))
    assert "0.5 of a row's length" in told and "no differential privacy" in told
    assert "row's length" not in "\n".join(explained(agent(0.0)))


def test_noise_is_a_finite_number_from_0() -> None:
    for wrong in (-1, float("nan"), float("inf"), "much"):
        with pytest.raises(ConfigurationError, match="representation_noise"):
            agent(wrong)


def agent(noise: object) -> AgentConfig:
    return parse_agent_config(
        {
            "aggregator": "a:1",
            "kind": "text",
            "data": {"adapter": "shapes"},
            "share": {"representation_noise": noise},
        }
    )
