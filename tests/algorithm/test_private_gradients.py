"""No sample moves a private gradient farther than the clipping norm."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedafd.algorithm.checks import InvalidTensorError
from fedafd.algorithm.private_gradients import clipped_sum


def gradients(seed: int, count: int, scale: float) -> list[torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(count, *shape, generator=made) for shape in ((3, 2), (5,), ())]


def slowly(each: list[torch.Tensor], clip: float) -> list[torch.Tensor]:
    """In double precision, one sample after the other."""
    total = [torch.zeros(part.shape[1:], dtype=torch.float64) for part in each]
    for n in range(len(each[0])):
        own = [part[n].double() for part in each]
        length = float(torch.cat([part.flatten() for part in own]).norm())
        total = [a + b * min(1.0, clip / length) for a, b in zip(total, own, strict=True)]
    return total


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.integers(1, 6), st.sampled_from([1e-3, 1.0, 1e4]), st.sampled_from([0.1, 1.0, 7.0]))
def test_the_sum_is_that_of_a_slow_loop(seed: int, count: int, scale: float, clip: float) -> None:
    each = gradients(seed, count, scale)
    for found, expected in zip(clipped_sum(each, clip), slowly(each, clip), strict=True):
        assert torch.allclose(found.double(), expected, rtol=1e-4, atol=1e-4 * clip)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.sampled_from([1e-30, 1.0, 1e20, float("inf"), float("nan")]))
def test_one_sample_more_moves_the_sum_by_no_more_than_the_clipping_norm(seed: int, scale: float) -> None:
    others, one = gradients(seed, 4, 3.0), gradients(seed + 1, 1, scale)
    without = clipped_sum(others, 0.5)
    with_it = clipped_sum([torch.cat(pair) for pair in zip(others, one, strict=True)], 0.5)
    moved = torch.cat([(a - b).flatten().double() for a, b in zip(with_it, without, strict=True)])
    assert float(moved.norm()) <= 0.5 + 1e-6


def test_a_clipping_norm_that_bounds_nothing_is_refused() -> None:
    with pytest.raises(InvalidTensorError):
        clipped_sum(gradients(0, 2, 1.0), 0.0)
