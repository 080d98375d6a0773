"""One rule for classes in every adapter: what is held out must have been trained on, and a name needs samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from fedafd.datasets.labels import Labels, class_counts, has_several
from fedafd.datasets.samples import ImageSplit, TextSplit
from fedafd.domain.errors import DataError

__all__ = ["settled_classes"]

L = TypeVar("L", ImageSplit, TextSplit)
_SHOWN = 5


def settled_classes(
    names: Sequence[str], splits: Mapping[str, L], where: object
) -> tuple[tuple[str, ...], dict[str, L], tuple[str, ...]]:
    """The classes that have samples, the splits with labels that index these, and notes on the classes left out.

    A class without any sample is left out, so that it cannot be predicted. Raises DataError for a class that `val` or
    `test` has and `train` lacks, and for fewer than two classes.
    """
    counts = {split: class_counts(samples.labels, len(names)) for split, samples in splits.items()}
    untrained = [
        f"{name!r} ({', '.join(f'{counts[split][label]} in {split}' for split in counts if counts[split][label])})"
        for label, name in enumerate(names)
        if not counts["train"][label] and any(count[label] for count in counts.values())
    ]
    if untrained:
        raise DataError(
            f"{where}: no training sample of class {_listed(untrained)}; add some to train, or remove the class"
        )
    kept = np.flatnonzero(counts["train"]).tolist()
    if len(kept) < 2:
        listed = ", ".join(repr(names[label]) for label in kept)
        raise DataError(f"{where}: needs samples of two or more classes, found {len(kept)}: {listed or 'none'}")
    if len(kept) == len(names):
        return tuple(names), dict(splits), ()
    left = [repr(name) for label, name in enumerate(names) if not counts["train"][label]]
    kept_splits = {
        split: replace(samples, labels=_only(samples.labels, kept, len(names))) for split, samples in splits.items()
    }
    note = f"left out for want of any sample: class {_listed(left)}"
    return tuple(names[label] for label in kept), kept_splits, (note,)


def _only(labels: Labels, kept: Sequence[int], num_names: int) -> Labels:
    if has_several(labels):
        return labels[:, list(kept)]
    new = np.full(num_names, -1, dtype=np.int64)
    new[list(kept)] = np.arange(len(kept))
    return new[labels]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
