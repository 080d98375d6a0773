"""Two models on the same samples: how much better one is, and how far that can be told from chance.

The samples are the same for both, so the error is that of the mean of their differences: what makes a sample hard is
hard for both, and drops out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["PairedDifference", "paired_difference", "standard_error"]


@dataclass(frozen=True)
class PairedDifference:
    """Of the task's own metric, in its unit: percent for acc1, 0 to 600 for rsum."""

    mean: float
    """Above 0 where the first model is the better one."""
    standard_error: float | None
    """Of `mean`, over samples of the kind that were seen; None for a single sample."""
    num_samples: int

    @property
    def is_below(self) -> bool:
        """Whether the first model is the worse one by more than one standard error."""
        return self._beyond(-self.mean)

    @property
    def is_above(self) -> bool:
        """Whether the first model is the better one by more than one standard error."""
        return self._beyond(self.mean)

    def _beyond(self, distance: float) -> bool:
        return self.standard_error is not None and distance > self.standard_error


def paired_difference(scores: ArrayLike, others: ArrayLike) -> PairedDifference:
    """`scores` less `others`, both [n] of the same samples in the same order (fedafd.learning.evaluation).

    Raises ValueError where they are not of the same samples, or of none.
    """
    one, other = np.asarray(scores, dtype=np.float64), np.asarray(others, dtype=np.float64)
    if one.ndim != 1 or one.shape != other.shape or not len(one):
        raise ValueError(f"scores of shapes {one.shape} and {other.shape} are not of the same samples")
    behind = one - other
    return PairedDifference(float(behind.mean()), standard_error(behind), len(behind))


def standard_error(scores: ArrayLike) -> float | None:
    """Of the mean of `scores` [n], over samples of the kind that were seen; None for a single sample."""
    values = np.asarray(scores, dtype=np.float64)
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
