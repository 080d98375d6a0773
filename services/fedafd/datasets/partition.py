"""Splitting one data set: among sites, evenly or by Dirichlet(alpha) over labels; and into training and held-out parts.

Dirichlet partitioning as in Hsu, Qi, Brown, arXiv 1909.06335. Parts are disjoint, complete, never empty, and depend on
nothing but the arguments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedafd.datasets.labels import Labels, has_several, strata
from fedafd.datasets.samples import PairSplit, Split
from fedafd.domain.config import PartitionConfig
from fedafd.domain.errors import ConfigurationError, DataError

__all__ = ["check_cut", "check_cuts", "check_split_seed", "partition_indices", "share_of", "stratified_cut"]


def partition_indices(labels: NDArray[np.int64], spec: PartitionConfig) -> NDArray[np.int64]:
    """Indices, ascending, of the samples that belong to the site `spec.index`.

    Raises DataError when there are fewer samples than sites.
    """
    if len(labels) < spec.num_clients:
        raise DataError(f"{len(labels)} samples cannot be split into {spec.num_clients} parts")
    rng = np.random.default_rng(spec.seed)
    owner = _iid(len(labels), spec, rng) if spec.scheme == "iid" else _dirichlet(labels, spec, rng)
    return np.flatnonzero(owner == spec.index)


def share_of(split: Split, spec: PartitionConfig) -> Split:
    """The samples of `split` that belong to the site `spec.index`. Raises DataError, as partition_indices does."""
    if isinstance(split, PairSplit):
        # Pairs carry no labels to be uneven in.
        even = spec.model_copy(update={"scheme": "iid"})
        indices = partition_indices(np.zeros(len(split), dtype=np.int64), even)
    else:
        indices = partition_indices(strata(split.labels), spec)
    return split.take(indices.tolist())


def stratified_cut(
    labels: Labels, fractions: Sequence[float], seed: int = 0, names: Sequence[str] | None = None
) -> tuple[NDArray[np.int64], ...]:
    """Indices, ascending, of the training part and of one held-out part for each of `fractions` (0.1: a tenth).

    `labels`: of either form (fedafd.datasets.labels).

    Each part has its fraction of every class, and of every class with as many samples as there are parts, one or more.
    A smaller class serves training first, then the largest fractions. Where a sample may have several labels, training
    has each of them. With `names`, which are a sample's own, samples that come or go and classes that are numbered anew
    move few others from part to part: what was trained on does not become what is tested on. Without, that holds for
    samples added at the end.
    """
    kinds = strata(labels)
    parts: list[list[int]] = [[] for _ in range(1 + len(fractions))]
    carried = np.zeros(len(fractions))
    for label in np.unique(kinds):
        rows = np.flatnonzero(kinds == label)
        if names is None:
            rows = rows[np.argsort(np.random.default_rng([seed, int(label)]).random(len(rows)), kind="stable")]
        else:
            rows = np.array(sorted(rows.tolist(), key=lambda row: _rank(seed, names[row])), dtype=np.int64)
        wanted = np.asarray(fractions) * len(rows) + carried
        carried = wanted - np.round(wanted)
        ends = np.cumsum(_held_out(wanted, np.asarray(fractions), len(rows)))
        for part, chosen in zip([*parts[1:], parts[0]], np.split(rows, ends), strict=True):
            part.extend(chosen.tolist())
    if has_several(labels):
        _train_on_every_label(labels, parts)
    return tuple(np.array(sorted(part), dtype=np.int64) for part in parts)


def _train_on_every_label(labels: Labels, parts: list[list[int]]) -> None:
    """Move the first held-out sample of each label that training lacks, as its samples were spread by rarer labels."""
    for label in range(labels.shape[1]):
        holders = [(part, row) for part in parts[1:] for row in part if labels[row, label]]
        if holders and not labels[parts[0], label].any():
            part, row = holders[0]
            part.remove(row)
            parts[0].append(row)


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed} {name}".encode(errors="surrogatepass")).digest()


def _held_out(wanted: NDArray[np.float64], fractions: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """How many of a class's `count` samples each held-out part gets; one or more stays for training."""
    sizes = np.maximum(np.round(wanted), 1).astype(np.int64)
    while sizes.sum() > count - 1:
        # Equal sizes: the smaller fraction gives first.
        largest = np.flatnonzero(sizes == sizes.max())
        sizes[largest[np.argmin(fractions[largest])]] -= 1
    return sizes


def _iid(count: int, spec: PartitionConfig, rng: np.random.Generator) -> NDArray[np.int64]:
    owner = np.arange(count) % spec.num_clients
    return rng.permutation(owner)


def _dirichlet(labels: NDArray[np.int64], spec: PartitionConfig, rng: np.random.Generator) -> NDArray[np.int64]:
    owner = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        share = rng.dirichlet(np.full(spec.num_clients, spec.alpha))
        ends = np.round(np.cumsum(share)[:-1] * len(rows)).astype(np.int64)
        for part, chosen in enumerate(np.split(rows, ends)):
            owner[chosen] = part
    for empty in np.setdiff1d(np.arange(spec.num_clients), owner):
        richest = int(np.bincount(owner, minlength=spec.num_clients).argmax())
        owner[rng.choice(np.flatnonzero(owner == richest))] = empty
    return owner


def check_cut(val_fraction: float, split_seed: int) -> None:
    """Raise ConfigurationError for adapter options that draw no validation split."""
    if not 0 < val_fraction < 1:
        raise ConfigurationError(f"data.options.val_fraction is {val_fraction:g}; must be above 0 and below 1")
    check_split_seed(split_seed)


def check_cuts(val_fraction: float, test_fraction: float, split_seed: int) -> None:
    """Raise ConfigurationError for adapter options that draw no validation or no test split, or leave no training."""
    if val_fraction <= 0 or test_fraction <= 0 or val_fraction + test_fraction >= 1:
        raise ConfigurationError(
            f"data.options: val_fraction {val_fraction:g} and test_fraction {test_fraction:g} must be above 0, and"
            " leave something of 1 for training"
        )
    check_split_seed(split_seed)


def check_split_seed(split_seed: int) -> None:
    """Raise ConfigurationError for one below 0."""
    if split_seed < 0:
        raise ConfigurationError(f"data.options.split_seed is {split_seed}; must be 0 or more")
