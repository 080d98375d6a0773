"""The soft contrastive loss against its definition, its gradients and its limits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fedafd.algorithm.checks import InvalidTensorError
from fedafd.algorithm.contrastive import SoftContrastiveLoss


def unit_rows(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def oracle(x: list[list[float]], y: list[list[float]], a: float, b: float) -> float:
    """Both directions, pair by pair, with sigmoid2 written out."""
    total = 0.0
    for left, right in ((x, y), (y, x)):
        for i, row in enumerate(left):
            for j, other in enumerate(right):
                s = -a * math.dist(row, other) + b
                match = math.exp(s) / (math.exp(s) + math.exp(-s))
                no_match = math.exp(-s) / (math.exp(s) + math.exp(-s))
                total -= math.log(match if i == j else no_match)
    return total


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 7), st.integers(1, 40), st.floats(0.1, 15), st.floats(-3, 15), st.integers(0, 10**6))
def test_equals_the_definition(batch: int, dim: int, scale: float, shift: float, seed: int) -> None:
    x_BD, y_BD = unit_rows(batch, dim, seed=seed), unit_rows(batch, dim, seed=seed + 1)
    loss = SoftContrastiveLoss(scale, shift).double()
    expected = oracle(x_BD.tolist(), y_BD.tolist(), loss.scale.item(), loss.shift.item())
    assert loss(x_BD, y_BD).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_gradients_equal_finite_differences() -> None:
    loss = SoftContrastiveLoss(3.0, 2.0).double()

    def value(x_BD: Tensor, y_BD: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(loss, {"scale": scale, "shift": shift}, (x_BD, y_BD))
        return result

    inputs = (unit_rows(4, 5), unit_rows(4, 5, seed=1), loss.scale.detach(), loss.shift.detach())
    assert torch.autograd.gradcheck(value, [tensor.clone().requires_grad_() for tensor in inputs])


def test_scale_and_shift_start_at_fifteen_and_learn() -> None:
    loss = SoftContrastiveLoss()
    assert dict(loss.named_parameters()).keys() == {"scale", "shift"}
    assert loss.scale.item() == loss.shift.item() == 15.0
    assert SoftContrastiveLoss(8.0).shift.item() == 8.0
    torch.autograd.backward(loss(unit_rows(4, 5).float(), unit_rows(4, 5, seed=1).float()))
    assert loss.scale.grad is not None
    assert loss.scale.grad.item() != 0
    assert loss.shift.grad is not None
    assert loss.shift.grad.item() != 0


def test_permuting_the_pairs_and_swapping_the_sides_change_nothing() -> None:
    x_BD, y_BD, loss = unit_rows(6, 8), unit_rows(6, 8, seed=1), SoftContrastiveLoss().double()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(loss(x_BD[order], y_BD[order]), loss(x_BD, y_BD))
    torch.testing.assert_close(loss(y_BD, x_BD), loss(x_BD, y_BD))


def test_equal_points_have_a_finite_gradient() -> None:
    x_BD = unit_rows(3, 4).requires_grad_()
    loss = SoftContrastiveLoss().double()(x_BD, x_BD.detach().clone())
    torch.autograd.backward(loss)
    assert x_BD.grad is not None
    assert bool(torch.isfinite(x_BD.grad).all())


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e6, 1e12])
def test_large_and_small_inputs_stay_finite(size: float) -> None:
    x_BD = (size * unit_rows(4, 8)).float().requires_grad_()
    loss = SoftContrastiveLoss()(x_BD, (size * unit_rows(4, 8, seed=1)).float())
    torch.autograd.backward(loss)
    assert math.isfinite(loss.item())
    assert x_BD.grad is not None
    assert bool(torch.isfinite(x_BD.grad).all())


def test_half_precision_is_computed_in_float32() -> None:
    x_BD, y_BD = unit_rows(4, 8).bfloat16(), unit_rows(4, 8, seed=1).bfloat16()
    loss = SoftContrastiveLoss()(x_BD, y_BD)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, SoftContrastiveLoss()(x_BD.float(), y_BD.float()))


def test_golden_value() -> None:
    x_BD = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    loss = SoftContrastiveLoss(2.0, 1.0).double()(x_BD, x_BD)
    # Diagonal s = 1, off it s = 1 - 2 sqrt(2); 2 * (2 softplus(-2) + 2 softplus(2 - 4 sqrt(2)))
    assert loss.item() == pytest.approx(4 * (math.log1p(math.exp(-2)) + math.log1p(math.exp(2 - 4 * math.sqrt(2)))))


@pytest.mark.parametrize("shape", [(3, 5), (4, 6), (4,), (4, 5, 1)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidTensorError, match="shape"):
        SoftContrastiveLoss()(torch.ones(4, 5), torch.ones(shape))
    with pytest.raises(ValueError, match="x_BD"):
        SoftContrastiveLoss()(torch.ones(0, 5), torch.ones(0, 5))
