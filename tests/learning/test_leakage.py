"""The attacks find what is plainly leaked, and nothing where nothing can be."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fedafd.learning.leakage import label_leakage, membership_leakage

DIM, CLASSES = 24, 4


def unit(generator: np.random.Generator, num: int) -> NDArray[np.float64]:
    rows = generator.normal(size=(num, DIM))
    made: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return made


def turned(generator: np.random.Generator, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """In a space of the site's own: the attacker has to find the way into the global one."""
    rotation, _ = np.linalg.qr(generator.normal(size=(DIM, DIM)))
    turned: NDArray[np.float64] = rows @ rotation
    return turned


def nearest(rows: NDArray[np.float64], among: NDArray[np.float64]) -> NDArray[np.int64]:
    found: NDArray[np.int64] = (rows @ among.T).argmax(1)
    return found


def test_membership_is_found_where_the_site_answers_with_its_nearest_training_sample() -> None:
    generator = np.random.default_rng(0)
    public, members, others = unit(generator, 500), unit(generator, 120), unit(generator, 120)
    released = turned(generator, 0.4 * public + members[nearest(public, members)])
    found = membership_leakage(released, public, members, others, resamples=200)
    assert found.is_shown and found.advantage > 0.5
    assert found.low < found.advantage < found.high


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_membership_is_not_found_in_rows_that_no_training_sample_had_a_part_in(noise: float) -> None:
    shown = []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        public, members, others = unit(generator, 300), unit(generator, 120), unit(generator, 120)
        released = turned(generator, public + noise * unit(generator, 300))
        found = membership_leakage(released, public, members, others, seed=seed, resamples=100)
        shown.append(found.is_shown)
        assert abs(found.advantage) < 0.3
    # One in forty is expected of an interval of 95 %; six of twenty would be a wrong interval.
    assert sum(shown) < 6


def test_noise_takes_from_what_the_attack_finds() -> None:
    generator = np.random.default_rng(1)
    public, members, others = unit(generator, 500), unit(generator, 120), unit(generator, 120)
    leaking = 0.4 * public + members[nearest(public, members)]
    plain, noisy = (
        membership_leakage(leaking + noise * unit(generator, 500), public, members, others, resamples=100).advantage
        for noise in (0.0, 4.0)
    )
    assert noisy < plain / 2


def test_the_distribution_of_classes_is_found_where_rows_lean_to_frequent_ones_and_only_there() -> None:
    generator = np.random.default_rng(2)
    public, prototypes = unit(generator, 600), unit(generator, CLASSES)
    counts = np.array([70, 20, 8, 2])
    lean = prototypes[generator.choice(CLASSES, 600, p=counts / 100)]
    found = label_leakage(public + 0.8 * lean, public, prototypes, counts, resamples=200)
    assert found.is_shown and found.advantage > 0.1
    nothing = label_leakage(turned(generator, public), public, prototypes, counts, resamples=200)
    assert not nothing.is_shown or nothing.advantage < 0.02


def test_equal_shares_hold_nothing_to_infer() -> None:
    generator = np.random.default_rng(3)
    public, prototypes = unit(generator, 300), unit(generator, CLASSES)
    found = label_leakage(unit(generator, 300), public, prototypes, np.full(CLASSES, 10), resamples=100)
    assert found.advantage <= 0 and not found.is_shown
