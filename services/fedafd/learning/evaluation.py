"""What an evaluation tells: the metrics, and sample by sample the one that rounds and gates are chosen by."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Evaluation"]


class Evaluation(NamedTuple):
    """Of one model on one split."""

    metrics: dict[str, float]
    """In percent."""
    scores: NDArray[np.float64]
    """Each sample's part of the task's own metric, rsum or acc1 [n]: their mean is that metric."""
