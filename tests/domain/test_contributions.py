"""Contributions travel as the metrics of a stage and come back the same."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from fedafd.domain.contributions import Contribution, contribution_metrics, contributions_of

FINITE = st.floats(-1, 1)


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(
        st.integers(0, 20_000),
        st.builds(
            Contribution,
            weight=st.floats(0, 1),
            similarity=st.none() | FINITE,
            agreement=st.none() | FINITE,
            left_out=st.booleans(),
        ),
        max_size=12,
    )
)
def test_contributions_come_back_from_metrics(contributions: dict[int, Contribution]) -> None:
    metrics = contribution_metrics(contributions)
    assert all(type(value) is float for value in metrics.values())
    assert contributions_of(dict(reversed(metrics.items()))) == contributions


def test_a_position_whose_weight_is_not_known_has_no_contribution() -> None:
    """Older versions stored a weight that is no number, which is left out on reading."""
    metrics = contribution_metrics({1: Contribution(weight=0.5), 2: Contribution(weight=0.25, similarity=0.1)})
    del metrics["2/weight"]
    assert contributions_of(metrics) == {1: Contribution(weight=0.5)}


def test_a_metric_of_no_client_is_passed_over() -> None:
    """A look at a round would fail for it, again and again, and the round would stand still."""
    assert contributions_of({"seconds": 1.0, "rounds/weight": 1.0, "0/weight": 1.0}) == {0: Contribution(weight=1.0)}
