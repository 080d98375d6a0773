"""The classification head and its separation term; centring."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fedafd.algorithm.centring import centre, public_mean
from fedafd.algorithm.checks import InvalidTensorError
from fedafd.algorithm.heads import ClassificationHead


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def head(dim: int = 6, classes: int = 4, seed: int = 0, logit_scale: float = 1.0) -> ClassificationHead:
    torch.manual_seed(seed)
    return ClassificationHead(dim, classes, logit_scale=logit_scale).double()


def oracle_cross_entropy(logits: list[list[float]], labels: list[int]) -> float:
    losses = []
    for row, label in zip(logits, labels, strict=True):
        losses.append(math.log(sum(math.exp(value) for value in row)) - row[label])
    return sum(losses) / len(losses)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(2, 6), st.floats(0.5, 10), st.floats(0, 2), st.integers(0, 10**6))
def test_loss_equals_the_definition(size: int, classes: int, scale: float, weight: float, seed: int) -> None:
    module, x_BD = head(6, classes, seed, scale), rows(size, 6, seed=seed)
    labels_B = torch.randint(classes, (size,), generator=torch.Generator().manual_seed(seed))
    weights = [[abs(value) for value in row] for row in module.free_weight.tolist()]

    def products(left: list[list[float]], factor: float) -> list[list[float]]:
        return [[factor * sum(a * b for a, b in zip(row, w, strict=True)) for w in weights] for row in left]

    expected = oracle_cross_entropy(products(x_BD.tolist(), scale), labels_B.tolist())
    expected += weight * oracle_cross_entropy(products(weights, 1.0), list(range(classes)))
    assert module.loss(x_BD, labels_B, separation_weight=weight).item() == pytest.approx(expected, rel=1e-10)


def test_class_weights_stay_non_negative_and_none_dies_at_zero() -> None:
    module, optimizer_steps = head(), 50
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    x_BD, labels_B = F.normalize(rows(16, 6), dim=1), torch.arange(16) % 4
    for _ in range(optimizer_steps):
        optimizer.zero_grad()
        loss = module.loss(x_BD, labels_B)
        torch.autograd.backward(loss)
        optimizer.step()
        assert bool((module.class_weights >= 0).all())
    assert module.free_weight.grad is not None
    assert bool((module.free_weight.grad != 0).all())


def test_separation_pushes_classes_apart() -> None:
    module = head(8, 4)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)

    def overlap() -> float:
        weights_CD = F.normalize(module.class_weights, dim=1)
        return ((weights_CD @ weights_CD.T).sum() - 4).item()

    before = overlap()
    for _ in range(100):
        optimizer.zero_grad()
        torch.autograd.backward(module.separation_loss())
        optimizer.step()
    assert overlap() < 0.5 * before


def test_gradients_equal_finite_differences() -> None:
    module, labels_B = head(), torch.tensor([0, 3, 1])
    assert torch.autograd.gradcheck(lambda x_BD: module.loss(x_BD, labels_B), [rows(3, 6).requires_grad_()])


def test_head_refuses_other_shapes_and_labels() -> None:
    with pytest.raises(InvalidTensorError, match="x_BD"):
        head()(rows(3, 5))
    with pytest.raises(InvalidTensorError, match="labels_B"):
        head().loss(rows(3, 6), torch.tensor([0, 1, 4]))
    with pytest.raises(ValueError, match="num_classes"):
        ClassificationHead(6, 1)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 20), st.integers(2, 8), st.floats(0, 20), st.integers(0, 10**6))
def test_centred_rows_are_unit_directions_from_the_mean(size: int, dim: int, offset: float, seed: int) -> None:
    global_ND = F.normalize(rows(size, dim, seed=seed) + offset, dim=1)
    mean_D = public_mean(global_ND)
    torch.testing.assert_close(mean_D, sum(global_ND) / size)
    centred_ND = centre(global_ND, mean_D)
    for row, original in zip(centred_ND.tolist(), global_ND.tolist(), strict=True):
        difference = [value - mean for value, mean in zip(original, mean_D.tolist(), strict=True)]
        length = math.hypot(*difference)
        assert row == pytest.approx([value / length for value in difference], rel=1e-9, abs=1e-9)


def test_a_client_takes_the_shift_of_the_global_representations() -> None:
    global_ND, features_BD = rows(20, 6) + 3, rows(4, 6, seed=1) + 3
    mean_D = public_mean(global_ND)
    torch.testing.assert_close(centre(features_BD, mean_D), F.normalize(features_BD - mean_D, dim=1))
    assert centre(rows(2, 3, 6), mean_D).shape == (2, 3, 6)


def test_centring_widens_a_narrow_cone() -> None:
    cone_ND = F.normalize(rows(200, 16) + 2, dim=1)
    centred_ND = centre(cone_ND, public_mean(cone_ND))
    assert cone_ND.mean(dim=0).norm().item() > 0.8
    assert centred_ND.mean(dim=0).norm().item() < 0.1


def test_a_row_that_equals_the_mean_gives_zeros_not_nan() -> None:
    mean_D = rows(6)
    assert not centre(mean_D[None], mean_D).any()


def test_centring_refuses_other_shapes_and_nan() -> None:
    with pytest.raises(InvalidTensorError, match="reps"):
        centre(rows(4, 5), rows(6))
    with pytest.raises(InvalidTensorError, match="mean_D"):
        centre(rows(4, 6), rows(6, 6))
    with pytest.raises(ValueError, match="not finite"):
        public_mean(torch.full((3, 4), torch.nan))
