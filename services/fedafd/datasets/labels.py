"""Labels of a split in both forms: one class for each sample, its number [n], or a set of labels [n, C] of 0 and 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Labels", "class_counts", "has_several", "label_names", "label_sets", "samples_of", "strata"]

Labels = NDArray[np.integer[Any]]
"""int64 [n], or uint8 [n, C]."""


def has_several(labels: Labels) -> bool:
    """Whether a sample may have several labels, or none."""
    return labels.ndim == 2


def label_sets(lists: Sequence[Sequence[int]], num_labels: int) -> Labels:
    """The numbers of each sample's labels as [n, C]."""
    flags = np.zeros((len(lists), num_labels), dtype=np.uint8)
    for row, numbers in enumerate(lists):
        flags[row, list(numbers)] = 1
    return flags


def class_counts(labels: Labels, num_classes: int) -> NDArray[np.int64]:
    """Samples of each class [C]; one with several labels counts for each."""
    if has_several(labels):
        return np.asarray(labels.sum(axis=0), dtype=np.int64)
    return np.bincount(labels, minlength=num_classes).astype(np.int64)


def samples_of(labels: Labels, label: int) -> NDArray[np.int64]:
    """The samples that have a label, ascending."""
    return np.flatnonzero(labels[:, label] if has_several(labels) else labels == label)


def label_names(labels: Labels, index: int, names: Sequence[str]) -> tuple[str, ...]:
    """The names of a sample's labels, in the order of `names`."""
    if has_several(labels):
        return tuple(names[number] for number in np.flatnonzero(labels[index]).tolist())
    return (names[int(labels[index])],)


def strata(labels: Labels) -> NDArray[np.int64]:
    """One number for each sample [n], by which samples are spread evenly: its class.

    Of several labels the rarest, so that rare ones are spread first, as Sechidis et al. do (ECML PKDD 2011); samples
    without a label are a class of their own, the last.
    """
    if not has_several(labels):
        return labels.astype(np.int64)
    counts = labels.sum(axis=0, dtype=np.int64)
    rarity = np.where(labels > 0, counts, np.iinfo(np.int64).max)
    rarest: NDArray[np.int64] = rarity.argmin(axis=1) if labels.shape[1] else np.zeros(len(labels), np.int64)
    return np.where(labels.any(axis=1), rarest, labels.shape[1]).astype(np.int64)
