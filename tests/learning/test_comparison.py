"""The difference of two models is that of the same samples, and its error that of its mean."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedafd.learning.comparison import PairedDifference, paired_difference, standard_error

SCORES = st.lists(st.tuples(st.floats(0, 600), st.floats(0, 600)), min_size=2, max_size=40)


def oracle(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """Mean and standard error, summed exactly and by hand."""
    behind = [one - other for one, other in pairs]
    mean = math.fsum(behind) / len(behind)
    variance = math.fsum((each - mean) ** 2 for each in behind) / (len(behind) - 1)
    return mean, math.sqrt(variance / len(behind))


@settings(max_examples=60, deadline=None)
@given(SCORES)
def test_mean_and_error_are_those_of_the_paired_differences(pairs: list[tuple[float, float]]) -> None:
    found = paired_difference(*zip(*pairs, strict=True))
    mean, error = oracle(pairs)
    assert found.mean == pytest.approx(mean, abs=1e-9)
    assert found.standard_error == pytest.approx(error, abs=1e-7)
    assert found.num_samples == len(pairs)


def test_what_both_get_wrong_makes_no_error() -> None:
    hard = np.array([0.0, 100.0] * 50)
    assert paired_difference(hard, hard) == PairedDifference(0.0, 0.0, 100)
    assert not paired_difference(hard, hard).is_below


def test_below_and_above_take_more_than_one_standard_error() -> None:
    ones = np.array([0.0, 100.0, 100.0, 100.0])
    better = paired_difference(np.full(4, 100.0), ones)
    assert (better.mean, better.standard_error) == (25.0, 25.0)
    assert not better.is_above, "exactly one error is not more than one"
    clear = paired_difference(np.full(4, 100.0), np.array([0.0, 0.0, 0.0, 100.0]))
    assert clear.is_above
    assert not clear.is_below
    worse = paired_difference(np.array([0.0, 0.0, 0.0, 100.0]), np.full(4, 100.0))
    assert worse.is_below
    assert not worse.is_above


def test_a_single_sample_has_no_error_and_decides_nothing() -> None:
    found = paired_difference([0.0], [100.0])
    assert found == PairedDifference(-100.0, None, 1)
    assert not found.is_below


@pytest.mark.parametrize(("one", "other"), [([1.0], [1.0, 2.0]), ([], []), ([[1.0]], [[1.0]])])
def test_scores_of_other_samples_are_refused(one: object, other: object) -> None:
    with pytest.raises(ValueError, match="not of the same samples"):
        paired_difference(one, other)  # type: ignore[arg-type]


def test_the_error_of_a_mean_is_that_of_its_samples() -> None:
    assert standard_error([0.0, 100.0, 0.0, 100.0]) == pytest.approx(100 / 2 / 3**0.5)
    assert standard_error([1.0]) is None
