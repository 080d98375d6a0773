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
    """Each sample's part of the task's own metric [n]: their mean is that metric."""
    own: str = ""
    """The name of that metric; empty where it follows from the metrics: rsum, else acc1."""

    @property
    def metric(self) -> str:
        """The name of the task's own metric."""
        return self.own or ("rsum" if "rsum" in self.metrics else "acc1")
