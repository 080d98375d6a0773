"""The tree in which one modality's SED states are merged: its shape is fixed by the cohort alone.

Leaf p is the client at cohort position p. Node g of level L merges the nodes g*8 .. g*8+7 of level L-1, in order, once
all of them are settled. A client that delivered nothing is an empty leaf; a node without a filled child is empty; a
node with exactly one passes it through without any work. So neither the order in which uploads arrive nor who merges
changes a bit of the result: floating-point sums are always taken in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["MERGE_ARITY", "MergePlan", "MergeStep", "plan_merges", "tree_height"]

MERGE_ARITY = 8
"""Children per node. Part of the result's bits: changing it changes every merged state by float error."""

T = TypeVar("T")


@dataclass(frozen=True)
class MergeStep(Generic[T]):
    """A merge that can be done now: two or more children of node `position` of `level` (from 1), in merge order."""

    level: int
    position: int
    children: tuple[T, ...]


@dataclass(frozen=True)
class MergePlan(Generic[T]):
    """What can be merged now, and whether all is done.

    `root` is the final state once `settled`; None then means that no client delivered this modality.
    """

    ready: tuple[MergeStep[T], ...]
    settled: bool
    root: T | None


@dataclass(frozen=True)
class _Node(Generic[T]):
    settled: bool
    state: T | None = None


def tree_height(cohort_size: int) -> int:
    """Levels of merges above the leaves: 0 for up to one client, 1 for up to 8, 2 for up to 64."""
    height, width = 0, cohort_size
    while width > 1:
        width = -(-width // MERGE_ARITY)
        height += 1
    return height


def plan_merges(cohort_size: int, leaves: Mapping[int, T | None], merged: Mapping[tuple[int, int], T]) -> MergePlan[T]:
    """Plan the merges of one modality.

    `leaves` maps each settled cohort position to its folded state, or to None when the client is known to deliver
    nothing; positions that are absent are still awaited. `merged` maps (level, position) of each finished merge to its
    state. Steps already in `merged` are not planned again; a step in progress is, so the caller skips those it started.
    """
    nodes = [_leaf(leaves, position) for position in range(cohort_size)]
    ready: list[MergeStep[T]] = []
    for level in range(1, tree_height(cohort_size) + 1):
        parents: list[_Node[T]] = []
        for position in range(-(-len(nodes) // MERGE_ARITY)):
            children = nodes[position * MERGE_ARITY : (position + 1) * MERGE_ARITY]
            states = tuple(child.state for child in children if child.state is not None)
            if not all(child.settled for child in children):
                parents.append(_Node(settled=False))
            elif len(states) < 2:
                parents.append(_Node(settled=True, state=states[0] if states else None))
            elif (level, position) in merged:
                parents.append(_Node(settled=True, state=merged[level, position]))
            else:
                ready.append(MergeStep(level, position, states))
                parents.append(_Node(settled=False))
        nodes = parents
    if not nodes:
        return MergePlan((), settled=True, root=None)
    return MergePlan(tuple(ready), settled=nodes[0].settled, root=nodes[0].state)


def _leaf(leaves: Mapping[int, T | None], position: int) -> _Node[T]:
    return _Node(settled=position in leaves, state=leaves.get(position))
