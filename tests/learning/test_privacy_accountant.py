"""The accountant agrees with published values, and never tells less than the exact cost."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from fedafd.learning.privacy_accountant import Spending, epsilon_of


def test_it_agrees_with_the_moments_accountant_of_the_paper() -> None:
    # arXiv 1607.00133, section 3.2: q = 0.01, sigma = 4, delta = 1e-5, T = 10,000 steps give 1.26; strong composition
    # gives 9.34. Renyi accounting with a tighter conversion (arXiv 2004.00010) tells somewhat less.
    assert 1.0 < epsilon_of([Spending(4.0, 0.01, 10_000)], 1e-5) <= 1.26


@pytest.mark.parametrize("sigma", [0.7, 2.0, 8.0])
def test_of_one_unsampled_step_it_is_a_close_upper_bound_of_the_exact_value(sigma: float) -> None:
    def exact_delta(epsilon: float) -> float:
        """Of the Gaussian mechanism: Balle and Wang, arXiv 1805.06530, theorem 8."""
        half, whole = 1 / (2 * sigma), epsilon * sigma
        return float(norm.cdf(half - whole) - math.exp(epsilon) * norm.cdf(-half - whole))

    told = epsilon_of([Spending(sigma, 1.0, 1)], 1e-5)
    assert exact_delta(told) <= 1e-5 < exact_delta(0.8 * told)


@settings(max_examples=4, deadline=None)
@given(st.floats(0.6, 5.0), st.floats(0.001, 0.5), st.integers(1, 500))
def test_more_steps_more_samples_and_less_noise_cost_more(sigma: float, rate: float, steps: int) -> None:
    base = epsilon_of([Spending(sigma, rate, steps)], 1e-6)
    assert 0 < base <= epsilon_of([Spending(sigma, rate, steps + 10)], 1e-6)
    assert base <= epsilon_of([Spending(sigma, min(1.0, 2 * rate), steps)], 1e-6)
    assert base <= epsilon_of([Spending(0.8 * sigma, rate, steps)], 1e-6)
    in_two = [Spending(sigma, rate, 10), Spending(sigma, rate, steps)]
    assert epsilon_of(in_two, 1e-6) == pytest.approx(epsilon_of([Spending(sigma, rate, steps + 10)], 1e-6))


def test_nothing_costs_nothing() -> None:
    assert epsilon_of([], 1e-5) == epsilon_of([Spending(1.0, 0.1, 0)], 1e-5) == 0


def test_a_thousand_rounds_of_one_kind_are_counted_as_quickly_as_one() -> None:
    # One after the other they took a third of a second each, before every round.
    rounds = [Spending(1.0, 0.01, 10)] * 1000
    assert epsilon_of(rounds, 1e-5) == epsilon_of([Spending(1.0, 0.01, 10_000)], 1e-5)
    assert epsilon_of([*rounds, Spending(2.0, 0.01, 10)], 1e-5) > epsilon_of(rounds, 1e-5)
