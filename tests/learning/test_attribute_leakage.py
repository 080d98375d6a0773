"""An attribute is inferred where rows carry that of their nearest training sample, and of nobody where they do not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.learning.test_leakage import nearest, turned, unit

from fedafd.learning.attribute_leakage import Attributed, attribute_leakage

VALUES = 3


class Drawn:
    """Samples whose attribute has a direction of its own, which their features show only faintly."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)
        self.public, self.directions = unit(self.generator, 800), unit(self.generator, VALUES)
        self.members, self.others = self.samples(200), self.samples(200)

    def samples(self, num: int) -> Attributed:
        values = self.generator.integers(VALUES, size=num)
        rows = unit(self.generator, num) + 0.3 * self.directions[values]
        return Attributed(rows / np.linalg.norm(rows, axis=1, keepdims=True), values)

    def leaning(self, strength: float) -> NDArray[np.float64]:
        """Rows that lean to the attribute of the training sample nearest to them."""
        carried = self.members.values[nearest(self.public, np.asarray(self.members.rows, dtype=np.float64))]
        return turned(self.generator, self.public + strength * self.directions[carried])


def test_an_attribute_that_rows_carry_of_training_samples_is_inferred() -> None:
    drawn = Drawn(0)
    found = attribute_leakage(drawn.leaning(0.8), drawn.public, drawn.members, drawn.others, resamples=200)
    assert found is not None and found.is_shown and found.advantage > 0.1
    assert found.low < found.advantage < found.high
    weaker = attribute_leakage(drawn.leaning(0.1), drawn.public, drawn.members, drawn.others, resamples=200)
    assert weaker is not None and weaker.advantage < found.advantage / 2


def test_what_is_known_of_everybody_is_not_inferred_of_training_samples() -> None:
    shown = []
    for seed in range(20):
        drawn = Drawn(seed)
        # Every row leans to the attribute that its own features speak for: a better encoder, and nobody's secret.
        guessed = (drawn.public @ drawn.directions.T).argmax(1)
        released = turned(drawn.generator, drawn.public + 0.5 * drawn.directions[guessed])
        found = attribute_leakage(released, drawn.public, drawn.members, drawn.others, seed=seed, resamples=100)
        assert found is not None
        shown.append(found.is_shown)
    # One in forty is expected of an interval of 95 %; six of twenty would be a wrong interval.
    assert sum(shown) < 6


def test_the_same_rows_add_nothing() -> None:
    drawn = Drawn(1)
    found = attribute_leakage(drawn.public, drawn.public, drawn.members, drawn.others, resamples=100)
    assert found is not None and (found.advantage, found.low, found.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("known", [-1, 0])
def test_without_two_values_on_both_sides_there_is_nothing_to_guess(known: int) -> None:
    drawn = Drawn(2)
    values = np.full_like(drawn.members.values, known)
    members = Attributed(drawn.members.rows, values)
    assert attribute_leakage(drawn.public, drawn.public, members, drawn.others, resamples=100) is None
