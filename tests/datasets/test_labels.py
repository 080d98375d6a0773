"""Labels in both forms: counts, names and strata say the same of one class as of a set of one."""

from __future__ import annotations

import numpy as np
import pytest

from fedafd.datasets.labels import class_counts, has_several, label_names, label_sets, samples_of, strata
from fedafd.datasets.partition import share_of, stratified_cut
from fedafd.datasets.samples import TextSplit
from fedafd.domain.config import PartitionConfig

NAMES = ("a", "b", "c")
ONE = np.array([0, 2, 2, 1, 0])
SETS = label_sets([[n] for n in ONE.tolist()], 3)


def test_sets_of_one_are_counted_named_and_cut_as_classes_are() -> None:
    assert (has_several(ONE), has_several(SETS)) == (False, True)
    assert class_counts(ONE, 3).tolist() == class_counts(SETS, 3).tolist() == [2, 1, 2]
    assert [label_names(SETS, n, NAMES) for n in range(5)] == [label_names(ONE, n, NAMES) for n in range(5)]
    assert samples_of(SETS, 2).tolist() == samples_of(ONE, 2).tolist() == [1, 2]
    assert strata(SETS).tolist() == strata(ONE).tolist() == ONE.tolist()


def test_a_sample_is_spread_by_its_rarest_label_and_one_without_by_itself() -> None:
    sets = label_sets([[0], [0], [0, 1], [], [0, 2], [1]], 3)
    assert strata(sets).tolist() == [0, 0, 1, 3, 2, 1]


@pytest.mark.parametrize("seed", range(3))
def test_every_part_of_a_cut_gets_its_share_of_each_label(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sets = label_sets([np.flatnonzero(row).tolist() for row in rng.random((300, 3)) < (0.5, 0.2, 0.1)], 3)
    train, val = stratified_cut(sets, (0.2,), seed)
    assert sorted([*train, *val]) == list(range(300))
    shares = sets[val].sum(axis=0) / sets.sum(axis=0)
    assert (np.abs(shares - 0.2) < 0.1).all()


def test_sites_get_unlike_shares_of_sets_too() -> None:
    rng = np.random.default_rng(0)
    sets = label_sets([np.flatnonzero(row).tolist() for row in rng.random((200, 4)) < 0.3], 4)
    split = TextSplit([str(n) for n in range(200)], sets)
    parts = [
        share_of(split, PartitionConfig(scheme="dirichlet", alpha=0.05, num_clients=4, index=index))
        for index in range(4)
    ]
    assert sum(map(len, parts)) == 200
    assert max(map(len, parts)) > 60


def test_a_label_whose_samples_were_spread_by_rarer_ones_is_trained_all_the_same() -> None:
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 1, 1]], dtype=np.uint8)
    train, *held_out = stratified_cut(labels, [0.1, 0.2])
    assert labels[train].any(axis=0).all()
    assert sorted([*train, *(row for part in held_out for row in part)]) == [0, 1, 2, 3]
