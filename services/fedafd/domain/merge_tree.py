"""The tree in which one modality's SED states are merged: its shape is fixed by the cohort alone.

Leaf p is the client at cohort position p. Node g of level L merges the nodes g*8 .. g*8+7 of level L-1, in order, once
all of them are settled. A client that delivered nothing is an empty leaf; a node without a filled child is empty; a
node with exactly one passes it through without any work. So neither the order in which uploads arrive nor who merges
changes a bit of the result: floating-point sums are always taken in the same order. Nor does it matter how many nodes
one step takes on: a *branch* is a state, or the branches of a node that is merged where it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, Union

__all__ = ["MERGE_ARITY", "Branch", "MergePlan", "MergeStep", "plan_merges", "tree_height"]

MERGE_ARITY = 8
"""Children per node. Part of the result's bits: changing it changes every merged state by float error."""

T = TypeVar("T")
Branch = Union[T, "tuple[Branch[T], ...]"]


@dataclass(frozen=True)
class MergeStep(Generic[T]):
    """A merge that can be done now: two or more children of node `position` of `level` (from 1), in merge order."""

    level: int
    position: int
    children: tuple[Branch[T], ...]


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
    """`step`: how it can be merged, of which nothing is merged or begun yet, from `size_bytes` of states."""

    settled: bool
    state: T | None = None
    step: MergeStep[T] | None = None
    size_bytes: int = 0

    @property
    def branch(self) -> Branch[T] | None:
        return self.state if self.step is None else self.step.children


def tree_height(cohort_size: int) -> int:
    """Levels of merges above the leaves: 0 for up to one client, 1 for up to 8, 2 for up to 64."""
    height, width = 0, cohort_size
    while width > 1:
        width = -(-width // MERGE_ARITY)
        height += 1
    return height


def plan_merges(
    cohort_size: int,
    leaves: Mapping[int, T | None],
    merged: Mapping[tuple[int, int], T],
    *,
    begun: Collection[tuple[int, int]] = (),
    size_of: Callable[[T], int] | None = None,
    most_bytes: int = 0,
) -> MergePlan[T]:
    """Plan the merges of one modality.

    `leaves` maps each settled cohort position to its folded state, or to None when the client is known to deliver
    nothing; positions that are absent are still awaited. `merged` maps (level, position) of each finished merge to its
    state, `begun` names those in progress; neither is planned again. Nodes above each other, of which nothing is begun,
    are one step if their states have at most `most_bytes`, by `size_of`; without it each node is a step of its own.
    """
    nodes = [_leaf(leaves, position, size_of) for position in range(cohort_size)]
    ready: list[MergeStep[T]] = []
    for level in range(1, tree_height(cohort_size) + 1):
        parents: list[_Node[T]] = []
        for position in range(-(-len(nodes) // MERGE_ARITY)):
            children = nodes[position * MERGE_ARITY : (position + 1) * MERGE_ARITY]
            if (level, position) in merged:
                parents.append(_filled(merged[level, position], size_of))
            elif (level, position) in begun:
                parents.append(_Node(settled=False))
            else:
                parent = _parent(level, position, children, -1 if size_of is None else most_bytes)
                parents.append(parent)
                if parent.step is None:
                    ready.extend(child.step for child in children if child.step is not None)
        nodes = parents
    if not nodes:
        return MergePlan((), settled=True, root=None)
    if nodes[0].step is not None:
        ready.append(nodes[0].step)
    return MergePlan(tuple(ready), settled=nodes[0].settled, root=nodes[0].state)


def _leaf(leaves: Mapping[int, T | None], position: int, size_of: Callable[[T], int] | None) -> _Node[T]:
    state = leaves.get(position)
    return _Node(settled=position in leaves) if state is None else _filled(state, size_of)


def _filled(state: T, size_of: Callable[[T], int] | None) -> _Node[T]:
    return _Node(settled=True, state=state, size_bytes=0 if size_of is None else size_of(state))


def _parent(level: int, position: int, children: Sequence[_Node[T]], most_bytes: int) -> _Node[T]:
    """A node that is neither merged nor begun."""
    if not all(child.settled or child.step is not None for child in children):
        return _Node(settled=False)
    branches = tuple(child.branch for child in children if child.branch is not None)
    if len(branches) == 1:
        return next(child for child in children if child.branch is not None)
    if not branches:
        return _Node(settled=True)
    size_bytes = sum(child.size_bytes for child in children)
    if any(child.step is not None for child in children) and size_bytes > most_bytes:
        return _Node(settled=False)
    return _Node(settled=False, step=MergeStep(level, position, branches), size_bytes=size_bytes)
