"""Splitting one data set among sites: uniformly, or unlike each other by Dirichlet(alpha) over labels.

Dirichlet partitioning as in Hsu, Qi, Brown, arXiv 1909.06335. Parts are disjoint, complete, never empty, and depend on
nothing but the arguments.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedafd.domain.config import PartitionConfig
from fedafd.domain.errors import DataError

__all__ = ["partition_indices"]


def partition_indices(labels: NDArray[np.int64], spec: PartitionConfig) -> NDArray[np.int64]:
    """Indices, ascending, of the samples that belong to the site `spec.index`.

    Raises DataError when there are fewer samples than sites.
    """
    if len(labels) < spec.num_clients:
        raise DataError(f"{len(labels)} samples cannot be split into {spec.num_clients} parts")
    rng = np.random.default_rng(spec.seed)
    owner = _iid(len(labels), spec, rng) if spec.scheme == "iid" else _dirichlet(labels, spec, rng)
    return np.flatnonzero(owner == spec.index)


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
