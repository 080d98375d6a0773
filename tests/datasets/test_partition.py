"""Partitions: complete, disjoint, never empty, seeded; Dirichlet with a small alpha makes sites unlike each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.datasets import makers

from fedafd.datasets import load_client_data
from fedafd.datasets.partition import partition_indices, share_of, stratified_cut
from fedafd.datasets.samples import PairSplit
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


def test_an_agents_pairs_are_dealt_evenly_by_every_scheme(tmp_path: Path) -> None:
    """As `simulate` deals them: pairs carry no labels to be uneven in."""
    folder = makers.karpathy(tmp_path, counts=(40, 2, 2))
    whole = load_client_data("flickr", folder, ClientKind.PAIR)
    sites = []
    for index in range(10):
        spec = PartitionConfig(scheme="dirichlet", alpha=0.1, num_clients=10, index=index)
        site = load_client_data("flickr", folder, ClientKind.PAIR, partition=spec)
        assert isinstance(site.train, PairSplit)
        assert site.train.ids == share_of(whole.train, spec).ids  # type: ignore[union-attr]
        sites.append(site.train.ids)
    assert [len(ids) for ids in sites] == [4] * 10
    assert len({name for ids in sites for name in ids}) == 40


@settings(deadline=None, max_examples=200)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    fractions=st.lists(st.floats(0.01, 0.3), min_size=1, max_size=3),
    seed=st.integers(0, 2**32),
)
def test_a_stratified_cut_is_a_partition_with_every_class_in_each_part(
    sizes: list[int], fractions: list[float], seed: int
) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    made = stratified_cut(labels, fractions, seed)
    assert sorted(np.concatenate(made).tolist()) == list(range(len(labels)))
    assert all((np.diff(part) > 0).all() for part in made)
    for one, other in zip(made, stratified_cut(labels, fractions, seed), strict=True):
        np.testing.assert_array_equal(one, other)
    for label, size in enumerate(sizes):
        counts = [int((labels[part] == label).sum()) for part in made]
        assert not size or counts[0]
        if size >= len(made):
            assert all(counts)
        assert all(abs(count - max(1, size * part)) < 1.51 for count, part in zip(counts[1:], fractions, strict=True))


def test_a_stratified_cut_keeps_to_its_fractions_and_its_seed() -> None:
    labels = np.repeat(np.arange(20), 14)
    train, val, test = stratified_cut(labels, (0.1, 0.2), 3)
    assert (len(train), len(val), len(test)) == (196, 28, 56)
    assert stratified_cut(labels, (0.1, 0.2), 4)[2].tolist() != test.tolist()
    assert [part.tolist() for part in stratified_cut(np.zeros(2, np.int64), (0.1, 0.2), 0)][1] == []
    assert [len(part) for part in stratified_cut(np.zeros(1, np.int64), (0.1, 0.2), 0)] == [1, 0, 0]


def test_a_sample_added_at_the_end_moves_few_others() -> None:
    before, after = (set(stratified_cut(np.zeros(size, np.int64), (0.1,), 0)[1].tolist()) for size in (200, 201))
    assert len(before ^ after) <= 2


def test_named_samples_keep_their_part_while_others_and_classes_come_and_go() -> None:
    def cut(classes: dict[str, list[str]]) -> dict[str, set[str]]:
        names = [f"{name}/{each}" for name in sorted(classes) for each in classes[name]]
        labels = np.array([label for label, name in enumerate(sorted(classes)) for _ in classes[name]])
        made = stratified_cut(labels, (0.1, 0.2), 0, names)
        parts = {part: {names[i] for i in rows} for part, rows in zip(("train", "val", "test"), made, strict=True)}
        assert sum(map(len, parts.values())) == len(names)
        return parts

    before = {"healthy": [f"p{n:03}" for n in range(100)], "mild": [f"p{n:03}" for n in range(50)]}
    # In the middle by name, and a class that comes first.
    after = {"all": ["x1", "x2", "x3", "x4"], "healthy": sorted([*before["healthy"], "p0500", "p0501"])}
    after |= {"mild": before["mild"][1:]}
    old, new = cut(before), cut(after)
    moved = (old["train"] & (new["test"] | new["val"])) | (old["val"] & new["test"])
    assert len(moved) <= 4
    # The order that names are listed in does not count.
    shuffled = {name: each[::-1] for name, each in before.items()}
    assert cut(shuffled) == old
    assert cut(before) != cut({name: [f"q{each}" for each in found] for name, found in before.items()})
