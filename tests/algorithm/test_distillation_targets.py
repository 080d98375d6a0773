"""Targets of the distillation, and the loss that pulls the global model to them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.algorithm.test_distillation_sed import unit_rows
from torch.nn import functional as F

from fedafd.algorithm.checks import InvalidTensorError
from fedafd.algorithm.distillation import (
    distillation_loss,
    distillation_targets,
)
from fedafd.domain.kinds import Modality


@given(share=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_targets_hold_the_share_of_the_global_models_own(share: float, seed: int) -> None:
    aggregate_ND, global_ND = 0.5 * unit_rows(4, 3, seed=seed), unit_rows(4, 3, seed=seed + 1)
    plain = distillation_targets(aggregate_ND, global_ND, self_share=share)
    unit = distillation_targets(aggregate_ND, global_ND, self_share=share, normalise=True)
    for n in range(4):
        mixed = [
            (1 - share) * a + share * g for a, g in zip(aggregate_ND[n].tolist(), global_ND[n].tolist(), strict=True)
        ]
        assert plain[n].tolist() == pytest.approx(mixed, abs=1e-12)
        norm = math.sqrt(math.fsum(value**2 for value in mixed))
        if norm > 1e-6:
            assert unit[n].tolist() == pytest.approx([value / norm for value in mixed], abs=1e-9)


def test_targets_at_the_ends_are_the_ensemble_and_the_global_models_own() -> None:
    aggregate_ND, global_ND = unit_rows(5, 8), unit_rows(5, 8, seed=1)
    assert torch.equal(distillation_targets(aggregate_ND, global_ND), aggregate_ND)
    torch.testing.assert_close(distillation_targets(aggregate_ND, global_ND, self_share=1.0), global_ND)
    with pytest.raises(InvalidTensorError, match="self_share"):
        distillation_targets(aggregate_ND, global_ND, self_share=1.1)
    with pytest.raises(InvalidTensorError, match="shape"):
        distillation_targets(aggregate_ND, global_ND[:4])


def test_distillation_loss_is_the_weighted_sum_of_mean_squares() -> None:
    features = {Modality.IMAGE: unit_rows(5, 8).requires_grad_(), Modality.TEXT: unit_rows(5, 8, seed=1)}
    aggregates = {Modality.IMAGE: unit_rows(5, 8, seed=2).requires_grad_(), Modality.TEXT: unit_rows(5, 8, seed=3)}
    expected = 0.0
    for modality in Modality:
        difference = (features[modality] - aggregates[modality]).flatten().tolist()
        expected += 0.4 * sum(value**2 for value in difference) / 40
    loss = distillation_loss(features, aggregates)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    torch.autograd.backward(loss)
    assert features[Modality.IMAGE].grad is not None
    assert aggregates[Modality.IMAGE].grad is None


def test_distillation_leaves_out_a_modality_that_nobody_delivered() -> None:
    features = {Modality.IMAGE: unit_rows(5, 8), Modality.TEXT: unit_rows(5, 8, seed=1)}
    target_BD = unit_rows(5, 8, seed=2)
    loss = distillation_loss(features, {Modality.TEXT: target_BD}, weight=2.0)
    assert loss.item() == pytest.approx(2 * F.mse_loss(features[Modality.TEXT], target_BD).item())
    with pytest.raises(InvalidTensorError, match="aggregates"):
        distillation_loss(features, {})
    with pytest.raises(InvalidTensorError, match="text"):
        distillation_loss({Modality.IMAGE: target_BD}, {Modality.TEXT: target_BD})
    with pytest.raises(InvalidTensorError, match="shape"):
        distillation_loss(features, {Modality.TEXT: target_BD[:1]})
