"""The standard-error rule against a plain computation, and its edges."""

from __future__ import annotations

import math
from statistics import fmean, stdev

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedafd.algorithm.checks import InvalidTensorError
from fedafd.algorithm.choices import as_good

SCORE = st.integers(0, 6).map(lambda value: value * 100.0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(SCORE, SCORE), min_size=2, max_size=30), st.sampled_from([1.0, 2.0]))
def test_it_is_the_standard_error_rule_on_paired_differences(pairs: list[tuple[float, float]], errors: float) -> None:
    behind = [best - other for other, best in pairs]
    bound = errors * stdev(behind) / math.sqrt(len(behind))
    if math.isclose(fmean(behind), bound, rel_tol=1e-9, abs_tol=1e-9):
        return  # Rounding decides.
    scores, best = (torch.tensor(column) for column in zip(*pairs, strict=True))
    assert as_good(scores, best, errors=errors) == (fmean(behind) <= bound)


def test_what_is_equal_or_higher_is_as_good() -> None:
    best = torch.tensor([0.0, 100.0, 100.0])
    assert as_good(best, best)
    assert as_good(best + 1, best)
    assert not as_good(best - 1, best), "the same on every sample is no noise"


def test_a_single_sample_tells_no_error() -> None:
    assert as_good(torch.ones(1), torch.ones(1))
    assert not as_good(torch.zeros(1), torch.ones(1))


def test_other_shapes_and_nan_are_refused() -> None:
    with pytest.raises(InvalidTensorError, match="best"):
        as_good(torch.ones(3), torch.ones(4))
    with pytest.raises(InvalidTensorError, match="scores"):
        as_good(torch.ones(0), torch.ones(0))
    with pytest.raises(InvalidTensorError, match="scores"):
        as_good(torch.tensor([math.nan]), torch.ones(1))
