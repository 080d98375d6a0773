"""The merge tree: fixed by the cohort, whatever arrives when."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedafd.domain.merge_tree import MERGE_ARITY, plan_merges, tree_height


def _merge(children: tuple[str, ...]) -> str:
    return f"({'+'.join(children)})"


def _run(cohort_size: int, delivered: set[int], shuffler: random.Random) -> tuple[str | None, int]:
    """Settle leaves and do merges in a random order; returns the root and the number of merges."""
    leaves: dict[int, str | None] = {}
    merged: dict[tuple[int, int], str] = {}
    waiting = list(range(cohort_size))
    shuffler.shuffle(waiting)
    while True:
        plan = plan_merges(cohort_size, leaves, merged)
        if plan.settled:
            return plan.root, len(merged)
        if plan.ready and (not waiting or shuffler.random() < 0.5):
            step = shuffler.choice(plan.ready)
            merged[step.level, step.position] = _merge(step.children)
        else:
            position = waiting.pop()
            leaves[position] = f"c{position}" if position in delivered else None


@pytest.mark.parametrize(
    ("cohort_size", "height"), [(0, 0), (1, 0), (2, 1), (8, 1), (9, 2), (64, 2), (65, 3), (10_000, 5)]
)
def test_height_grows_with_the_logarithm_of_the_cohort(cohort_size: int, height: int) -> None:
    assert tree_height(cohort_size) == height


def test_nobody_delivering_settles_without_a_state() -> None:
    assert plan_merges(3, {0: None, 1: None, 2: None}, {}).settled
    assert plan_merges(3, {0: None, 1: None, 2: None}, {}).root is None
    assert plan_merges(0, {}, {}).settled


def test_a_single_delivery_passes_through_every_level_without_a_merge() -> None:
    leaves = {position: "state" if position == 40 else None for position in range(100)}
    plan = plan_merges(100, leaves, {})
    assert (plan.ready, plan.settled, plan.root) == ((), True, "state")


def test_a_group_waits_for_all_of_its_clients_and_not_for_others() -> None:
    leaves: dict[int, str | None] = {position: f"c{position}" for position in range(MERGE_ARITY)}
    plan = plan_merges(20, leaves, {})
    assert [(step.level, step.position) for step in plan.ready] == [(1, 0)]
    del leaves[3]
    assert plan_merges(20, leaves, {}).ready == ()


def test_children_are_merged_in_cohort_order() -> None:
    plan = plan_merges(3, {2: "c", 0: "a", 1: "b"}, {})
    assert plan.ready[0].children == ("a", "b", "c")


@given(
    cohort_size=st.integers(1, 150), share=st.floats(0, 1), seeds=st.tuples(st.integers(), st.integers(), st.integers())
)
def test_the_result_does_not_depend_on_the_order_of_arrival(
    cohort_size: int, share: float, seeds: tuple[int, int, int]
) -> None:
    who = random.Random(seeds[0])
    delivered = {position for position in range(cohort_size) if who.random() < share}
    first = _run(cohort_size, delivered, random.Random(seeds[1]))
    assert first == _run(cohort_size, delivered, random.Random(seeds[2]))
    assert (first[0] is None) == (not delivered)
