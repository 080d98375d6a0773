"""The merge tree: fixed by the cohort, whatever arrives when."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedafd.domain.merge_tree import MERGE_ARITY, Branch, MergePlan, MergeStep, plan_merges, tree_height


def _merge(children: tuple[Branch[str], ...]) -> str:
    parts = [child if isinstance(child, str) else _merge(child) for child in children]
    return f"({'+'.join(parts)})"


def _run(
    cohort_size: int, delivered: set[int], shuffler: random.Random, most_bytes: int | None = None
) -> tuple[str | None, int]:
    """Settle leaves, begin merges and end them in a random order; returns the root and the number of merges.

    `most_bytes`: of states that one step takes, each of which has 10; None: a step for each node.
    """
    leaves: dict[int, str | None] = {}
    merged: dict[tuple[int, int], str] = {}
    begun: dict[tuple[int, int], MergeStep[str]] = {}
    waiting = list(range(cohort_size))
    shuffler.shuffle(waiting)

    def plan_now() -> MergePlan[str]:
        if most_bytes is None:
            return plan_merges(cohort_size, leaves, merged, begun=begun)
        return plan_merges(cohort_size, leaves, merged, begun=begun, size_of=lambda _: 10, most_bytes=most_bytes)

    while True:
        plan = plan_now()
        if plan.settled:
            assert not begun
            return plan.root, len(merged)
        chosen = shuffler.random()
        if plan.ready and chosen < 0.4:
            step = shuffler.choice(plan.ready)
            assert (step.level, step.position) not in {*begun, *merged}
            begun[step.level, step.position] = step
        elif begun and (chosen < 0.7 or not waiting):
            node = shuffler.choice(list(begun))
            merged[node] = _merge(begun.pop(node).children)
        elif waiting:
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


@pytest.mark.parametrize(
    ("cohort_size", "most_bytes", "steps"),
    [
        (64, 640, [(2, 0)]),
        (64, 639, [(1, position) for position in range(8)]),
        (65, 650, [(3, 0)]),
        (65, 640, [(2, 0)]),
        (8, 0, [(1, 0)]),
        (9, 90, [(2, 0)]),
    ],
)
def test_levels_above_each_other_are_one_step_while_their_states_are_small(
    cohort_size: int, most_bytes: int, steps: list[tuple[int, int]]
) -> None:
    leaves = {position: f"c{position}" for position in range(cohort_size)}
    plan = plan_merges(cohort_size, leaves, {}, size_of=lambda _: 10, most_bytes=most_bytes)
    assert [(step.level, step.position) for step in plan.ready] == steps


def test_of_nodes_of_which_some_are_begun_the_others_are_steps_of_their_own() -> None:
    leaves = {position: f"c{position}" for position in range(20)}
    plan = plan_merges(20, leaves, {}, begun={(1, 1)}, size_of=lambda _: 10, most_bytes=1000)
    assert [(step.level, step.position) for step in plan.ready] == [(1, 0), (1, 2)]
    assert plan_merges(20, leaves, {}, begun={(2, 0)}, size_of=lambda _: 10, most_bytes=1000).ready == ()


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
    for most_bytes in (0, 200, 10_000):
        in_fewer_steps = _run(cohort_size, delivered, random.Random(seeds[2]), most_bytes)
        assert in_fewer_steps[0] == first[0]
        assert in_fewer_steps[1] <= first[1]
