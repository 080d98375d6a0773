"""Choosing on a validation split that is small: what cannot be told from the best counts as good as the best.

Source: the one-standard-error rule of Breiman, Friedman, Olshen and Stone, Classification and Regression Trees (1984),
section 3.4.3; here with paired differences, as all candidates are scored on the same samples.
"""

from __future__ import annotations

import math

from torch import Tensor

from fedafd.algorithm.checks import check_finite, check_same_shape, check_shape

__all__ = ["as_good"]


def as_good(scores: Tensor, best: Tensor, *, errors: float = 1.0) -> bool:
    """Whether a candidate with `scores` [n] is as good as the one with `best` [n], which looks best.

    It is if its mean is as high, or lower by at most `errors` standard errors of the mean difference. Both are of the
    same samples in the same order; higher is better. Raises InvalidTensorError for shapes that differ, NaN or infinity.
    """
    check_shape("scores", scores, None)
    check_same_shape("best", best, "scores", scores)
    check_finite("scores", scores)
    check_finite("best", best)
    behind = best.double() - scores.double()
    error = float(behind.std()) / math.sqrt(len(behind)) if len(behind) > 1 else 0.0
    return float(behind.mean()) <= errors * error
