"""What is no representation, temperature or state is refused by name, and changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from tests.algorithm.test_distillation_sed import unit_rows
from torch import Tensor

from fedafd.algorithm.checks import InvalidTensorError
from fedafd.algorithm.distillation import (
    MeanEnsemble,
    SimilarityEnsemble,
    similarity_scores,
)


@pytest.mark.parametrize(
    "reps",
    [
        pytest.param(torch.ones(5, 4), id="fewer-samples"),
        pytest.param(torch.ones(6, 3), id="other-dimension"),
        pytest.param(torch.ones(24), id="flat"),
        pytest.param(torch.ones(6, 4, dtype=torch.int64), id="integers"),
        pytest.param(torch.ones(6, 4).index_fill(0, torch.tensor([2]), torch.nan), id="nan"),
        pytest.param(torch.ones(6, 4).index_fill(0, torch.tensor([2]), torch.inf), id="infinity"),
    ],
)
def test_bad_representations_are_refused_and_change_nothing(reps: Tensor) -> None:
    ensemble = SimilarityEnsemble(unit_rows(6, 4, dtype=torch.float32))
    ensemble.add(unit_rows(6, 4, seed=1, dtype=torch.float32))
    before = ensemble.result()
    with pytest.raises(ValueError, match="reps"):
        ensemble.add(reps)
    with pytest.raises(InvalidTensorError):
        similarity_scores(reps, unit_rows(6, 4, dtype=torch.float32))
    assert torch.equal(ensemble.result(), before)
    assert ensemble.count == 1


def test_the_place_of_a_bad_value_is_named() -> None:
    reps_ND = unit_rows(6, 4)
    reps_ND[3, 2] = torch.nan
    with pytest.raises(InvalidTensorError, match=r"reps: 1 of 24 values are not finite, the first at index \[3, 2\]"):
        similarity_scores(reps_ND, unit_rows(6, 4))


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan, math.inf])
def test_temperature_must_be_finite_and_above_zero(tau: float) -> None:
    with pytest.raises(InvalidTensorError, match="temperature"):
        SimilarityEnsemble(unit_rows(6, 4), tau)
    with pytest.raises(InvalidTensorError, match="temperature"):
        similarity_scores(unit_rows(6, 4), unit_rows(6, 4), tau)


def test_states_that_do_not_belong_together_are_refused() -> None:
    ensemble = SimilarityEnsemble(unit_rows(6, 4), 0.1)
    with pytest.raises(InvalidTensorError, match="temperature"):
        ensemble.merge(SimilarityEnsemble(unit_rows(6, 4), 0.2))
    with pytest.raises(InvalidTensorError, match="temperature"):
        ensemble.merge(MeanEnsemble(unit_rows(6, 4)))
    with pytest.raises(InvalidTensorError, match="shape"):
        ensemble.merge(SimilarityEnsemble(unit_rows(7, 4), 0.1))


def test_an_ensemble_without_clients_or_without_reference_says_so() -> None:
    ensemble = SimilarityEnsemble(unit_rows(6, 4))
    with pytest.raises(InvalidTensorError, match="no representations"):
        ensemble.result()
    with pytest.raises(InvalidTensorError, match="only merge"):
        SimilarityEnsemble.from_state(ensemble.state()).add(unit_rows(6, 4))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("running_max", torch.zeros(5)),
        ("running_max", torch.full((6,), torch.nan)),
        ("normaliser", torch.zeros(6)),
        ("weighted_sum", torch.full((6, 4), torch.inf)),
        ("weighted_sum", torch.zeros(6)),
        ("count", torch.tensor(-1)),
        ("count", torch.tensor([1, 2])),
        ("count", torch.tensor(1.0)),
        ("count", torch.tensor(math.nan)),
        ("count", torch.tensor(2**64 - 1, dtype=torch.uint64)),
        ("weighted_sum", torch.zeros(6, 4, dtype=torch.int64)),
        ("temperature", torch.tensor(math.nan)),
        ("temperature", None),
    ],
)
def test_a_broken_state_is_refused(name: str, value: Tensor | None) -> None:
    ensemble = SimilarityEnsemble(unit_rows(6, 4))
    ensemble.add(unit_rows(6, 4, seed=1))
    state = {key: tensor for key, tensor in (ensemble.state() | {name: value}).items() if tensor is not None}
    with pytest.raises(InvalidTensorError, match="state"):
        SimilarityEnsemble.from_state(state)
