"""Partitions: complete, disjoint, never empty, seeded; Dirichlet with a small alpha makes sites unlike each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedafd.datasets import load_client_data
from fedafd.datasets.partition import partition_indices
from fedafd.domain.config import PartitionConfig
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import ClientKind


def parts(labels: NDArray[np.int64], count: int, scheme: str, alpha: float, seed: int) -> list[NDArray[np.int64]]:
    spec = {"scheme": scheme, "alpha": alpha, "num_clients": count, "seed": seed}
    return [partition_indices(labels, PartitionConfig.model_validate(spec | {"index": i})) for i in range(count)]


@settings(deadline=None, max_examples=200)
@given(
    classes=st.integers(1, 12),
    samples=st.integers(1, 300),
    clients=st.integers(1, 12),
    scheme=st.sampled_from(["iid", "dirichlet"]),
    alpha=st.floats(1e-6, 1e6),
    seed=st.integers(0, 2**32),
)
def test_the_parts_are_a_partition_and_depend_on_nothing_but_the_arguments(
    classes: int, samples: int, clients: int, scheme: str, alpha: float, seed: int
) -> None:
    clients = min(clients, samples)
    labels = np.random.default_rng(seed).integers(0, classes, samples)
    made = parts(labels, clients, scheme, alpha, seed)
    assert all(len(part) > 0 for part in made)
    assert sorted(np.concatenate(made).tolist()) == list(range(samples))
    assert all((np.diff(part) > 0).all() for part in made)
    for one, other in zip(made, parts(labels, clients, scheme, alpha, seed), strict=True):
        np.testing.assert_array_equal(one, other)
    if scheme == "iid":
        assert max(map(len, made)) - min(map(len, made)) <= 1


def unlikeness(labels: NDArray[np.int64], made: list[NDArray[np.int64]]) -> float:
    """Mean total variation distance between a part's label shares and the whole's."""
    whole = np.bincount(labels, minlength=10) / len(labels)
    shares = [np.bincount(labels[part], minlength=10) / len(part) for part in made]
    return float(np.mean([np.abs(share - whole).sum() / 2 for share in shares]))


@pytest.mark.parametrize("seed", range(5))
def test_a_small_alpha_skews_labels_and_a_large_one_hardly_does(seed: int) -> None:
    labels = np.arange(5000) % 10
    skewed = unlikeness(labels, parts(labels, 8, "dirichlet", 0.1, seed))
    mild = unlikeness(labels, parts(labels, 8, "dirichlet", 1.0, seed))
    even = unlikeness(labels, parts(labels, 8, "dirichlet", 1000.0, seed))
    assert skewed > 0.5 > mild > 0.1 > even
    assert unlikeness(labels, parts(labels, 8, "iid", 1.0, seed)) < 0.1


def test_seeds_make_other_partitions() -> None:
    labels = np.arange(100) % 5
    for scheme in ("iid", "dirichlet"):
        one, other = (np.concatenate(parts(labels, 4, scheme, 0.5, seed)).tolist() for seed in (0, 1))
        assert one != other


def test_impossible_partitions_are_refused() -> None:
    with pytest.raises(DataError, match=r"3 samples cannot be split into 4 parts"):
        partition_indices(np.zeros(3, int), PartitionConfig(num_clients=4, index=0))
    with pytest.raises(ValueError, match="index"):
        partition_indices(np.zeros(9, int), PartitionConfig(num_clients=4, index=4))


@pytest.mark.parametrize("kind", ClientKind)
def test_only_the_training_split_is_partitioned(kind: ClientKind) -> None:
    sizes = {"num_train": 21, "num_val": 4, "num_test": 5}
    whole = load_client_data("shapes", None, kind, sizes)
    sites = [
        load_client_data("shapes", None, kind, sizes, PartitionConfig(num_clients=3, index=index)) for index in range(3)
    ]
    assert sum(len(site.train) for site in sites) == 21
    assert all((len(site.val), len(site.test), site.labels) == (4, 5, whole.labels) for site in sites)
