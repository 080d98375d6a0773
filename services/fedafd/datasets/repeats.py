"""Samples of equal content: within a split, across splits, under two classes; and training data without them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

from fedafd.datasets.facts import Repeats
from fedafd.datasets.samples import ClientData, PairSplit, Split, sample_name

__all__ = ["Look", "find_repeats", "without"]

_GROUPS = 10
_NAMES = 4


class Look(NamedTuple):
    """A sample's content, as a hash that repeats share, empty for one that cannot be read; and its class's name."""

    content: bytes
    label: str | None


def find_repeats(splits: Mapping[str, Split], looks: Mapping[str, Sequence[Look]]) -> tuple[Repeats, tuple[int, ...]]:
    """What repeats, and which training samples do so in another split."""
    rows_by_content: dict[bytes, list[tuple[str, int]]] = {}
    for name, split_looks in looks.items():
        for at, look in enumerate(split_looks):
            if look.content:
                rows_by_content.setdefault(look.content, []).append((name, at))
    groups = [group for group in rows_by_content.values() if len(group) > 1]
    groups.sort(key=lambda group: len({name for name, _ in group}) == 1)
    within = {name: sum(max(0, _count(group, name) - 1) for group in groups) for name in looks}
    pairs = {
        (one, other): sum(_count(group, one) for group in groups if _count(group, other))
        for one, other in combinations(looks, 2)
    }
    repeats = Repeats(
        within={name: count for name, count in within.items() if count},
        across={f"{one}/{other}": count for (one, other), count in pairs.items() if count},
        conflicting=sum(len({looks[name][at].label for name, at in group}) > 1 for group in groups),
        ids=_repeated_ids(splits),
        first=tuple(_names(splits, group) for group in groups[:_GROUPS]),
    )
    in_train = [at for group in groups if len({n for n, _ in group}) > 1 for name, at in group if name == "train"]
    return repeats, tuple(sorted(in_train))


def without(data: ClientData, dropped: Sequence[int]) -> ClientData:
    """The same data but for the training samples `dropped`."""
    gone = set(dropped)
    return replace(data, train=data.train.take([at for at in range(len(data.train)) if at not in gone]))


def _count(group: Sequence[tuple[str, int]], split: str) -> int:
    return sum(name == split for name, _ in group)


def _names(splits: Mapping[str, Split], group: Sequence[tuple[str, int]]) -> tuple[str, ...]:
    shown = tuple(f"{name}: {sample_name(splits[name], at)}" for name, at in group[:_NAMES])
    return shown if len(group) <= _NAMES else (*shown, f"and {len(group) - _NAMES} more")


def _repeated_ids(splits: Mapping[str, Split]) -> int:
    counts = Counter(sample_id for split in splits.values() if isinstance(split, PairSplit) for sample_id in split.ids)
    return sum(count > 1 for count in counts.values())
