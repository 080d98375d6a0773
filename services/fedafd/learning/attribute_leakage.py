"""Attribute inference: does a release tell something of training samples that the task was never told?

The attacker is that of `fedafd.learning.leakage`, and has each sample but for its attribute: a patient's sex, the
device, a caption's topic. Guessed twice, from what the global encoder says of a sample alone, and from that with what
the released rows of like public samples add. How much oftener the second guess is right, of training samples beyond
what it is of samples that nobody trained on, is what was inferred (advantage as of arXiv 1709.01604, calibrated).

Shape legend: N public samples, D embedding dimension, M members (training samples), K others, A values.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedafd.learning.leakage import Leakage, Rows, measured, turned, unit_rows

__all__ = ["Attributed", "attribute_leakage"]

_TEMPERATURE = 0.05
"""Of the likeness by which public samples speak for a sample: a few of them do."""
_FEWEST = 2
"""Others of a value, for it to have some in either half."""
_BLOCK = 1024


class Attributed(NamedTuple):
    """Features of samples [M, D], and of each the number of its value [M]; less than 0: not known."""

    rows: Rows
    values: NDArray[np.int64]


class _Gains(NamedTuple):
    """Of each sample how much oftener its value is guessed with the release, -1 to 1, and that value [M]."""

    gains: NDArray[np.float64]
    values: NDArray[np.int64]

    def mean(self) -> float:
        """Values count alike, however many samples have them."""
        return float(np.mean([self.gains[self.values == value].mean() for value in np.unique(self.values)]))

    def drawn(self, generator: np.random.Generator) -> _Gains:
        """As many again of each value, with replacement."""
        rows_by_value = [np.flatnonzero(self.values == value) for value in np.unique(self.values)]
        which = np.concatenate([generator.choice(rows, len(rows)) for rows in rows_by_value])
        return _Gains(self.gains[which], self.values[which])


def attribute_leakage(
    released_ND: Rows, global_ND: Rows, members: Attributed, others: Attributed, *, seed: int = 0, resamples: int = 1000
) -> Leakage | None:
    """The advantage, -1 to 1; None where fewer than two values have samples on both sides.

    One half of the others gives the prototype of each value, the other half is guessed, and the other way round: no
    sample is guessed by a prototype that it is part of.
    """
    kept = [
        value for value in np.unique(members.values[members.values >= 0]) if (others.values == value).sum() >= _FEWEST
    ]
    if len(kept) < 2:
        return None
    rows_ND, anchors_ND, mean_1D = turned(released_ND, global_ND)
    inside, outside = (_renumbered(samples, kept, mean_1D) for samples in (members, others))
    views_in, views_out = (_views(samples.rows, rows_ND, anchors_ND) for samples in (inside, outside))
    halves = _halves(outside.values)
    of_members, of_others = [], np.zeros(len(outside.values))
    for half in (halves, ~halves):
        prototypes = _prototypes(Attributed(outside.rows[half], outside.values[half]), len(kept))
        of_members.append(_gain(views_in, inside.values, prototypes))
        of_others[~half] = _gain(views_out, outside.values, prototypes)[~half]
    gains = _Gains(np.mean(of_members, axis=0), inside.values), _Gains(of_others, outside.values)

    def resampled(generator: np.random.Generator) -> float:
        return gains[0].drawn(generator).mean() - gains[1].drawn(generator).mean()

    return measured(gains[0].mean() - gains[1].mean(), resampled, seed, resamples)


def _renumbered(samples: Attributed, kept: list[np.int64], mean_1D: Rows) -> Attributed:
    """Those of the values that are compared, which become 0 to A - 1, in the centred global space."""
    which = np.isin(samples.values, kept)
    values_M = np.searchsorted(np.asarray(kept), samples.values[which])
    return Attributed(unit_rows(samples.rows[which] - mean_1D), values_M.astype(np.int64))


def _halves(values_K: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Every second sample of each value."""
    chosen = np.zeros(len(values_K), dtype=bool)
    for value in np.unique(values_K):
        chosen[np.flatnonzero(values_K == value)[::2]] = True
    return chosen


def _views(rows_MD: Rows, released_ND: Rows, global_ND: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each sample what the global encoder says, and that with what the released rows add around it, [M, D] each."""
    moved_ND, given_MD = released_ND - global_ND, np.asarray(rows_MD, dtype=np.float64)
    parts = []
    for start in range(0, len(given_MD), _BLOCK):
        block = given_MD[start : start + _BLOCK]
        likeness = np.exp((block @ global_ND.T - 1) / _TEMPERATURE)
        weights = likeness / np.maximum(likeness.sum(1, keepdims=True), np.finfo(np.float64).tiny)
        parts.append(unit_rows(block + weights @ moved_ND))
    return given_MD, np.concatenate(parts)


def _prototypes(samples: Attributed, num_values: int) -> NDArray[np.float64]:
    return unit_rows(np.stack([samples.rows[samples.values == value].mean(0) for value in range(num_values)]))


def _gain(
    views: tuple[NDArray[np.float64], NDArray[np.float64]], values_M: NDArray[np.int64], prototypes_AD: Rows
) -> NDArray[np.float64]:
    """Of each sample 1 where only the guess with the release is right, -1 where only the one without it is, else 0."""
    before, after = ((view @ prototypes_AD.T).argmax(1) == values_M for view in views)
    gains_M: NDArray[np.float64] = after.astype(np.float64) - before
    return gains_M
