"""What a classifying client's personalized model predicts by: its branches, and the weight of each in their pool.

The branches are the fused feature, the own encoder's, the frozen global one, all through the federated head, and the
model that the site trains alone. See docs/adr/0016.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fedafd.learning.tasks import LabelTask

__all__ = ["BRANCHES", "ONLY_FUSED", "Weights", "fit_branches", "pool_branches", "weights_from_json"]

BRANCHES = ("alone", "fused", "local", "global")
"""By the names of metrics. The first is the one that the pool must not fall below."""
Weights = Mapping[str, float]
"""By branch; they sum to 1. A branch that is not named has none."""
ONLY_FUSED: Weights = {"fused": 1.0}
"""Of a model without a branch that is trained alone, or without validation samples to weigh it by."""


def fit_branches(task: LabelTask, logits: Mapping[str, Tensor], labels: Tensor, trained: Tensor) -> Weights:
    """The weights that validation samples bear out; `logits` [n, C] of each of BRANCHES, `trained`: training labels."""
    weights = task.fit_pool([logits[branch] for branch in BRANCHES], labels, trained)
    return {branch: weight for branch, weight in zip(BRANCHES, weights, strict=True) if weight > 0}


def pool_branches(task: LabelTask, logits: Mapping[str, Tensor], weights: Weights) -> Tensor:
    """The pool's logits [n, C]; `logits` of the branches that `weights` name, or more."""
    return task.pool([logits[branch] for branch in weights], list(weights.values()))


def weights_from_json(values: Any) -> Weights:
    """Read back. Raises ValueError for what is not weights of branches that sum to 1."""
    if not isinstance(values, Mapping) or not values or not set(values) <= set(BRANCHES):
        raise ValueError(f"branches is {values!r}; must be weights of some of {', '.join(BRANCHES)}")
    numbers = all(isinstance(weight, int | float) and not isinstance(weight, bool) for weight in values.values())
    if (
        not numbers
        or not all(0 < weight <= 1 for weight in values.values())
        or not math.isclose(sum(values.values()), 1)
    ):
        raise ValueError(f"branches is {dict(values)!r}; the weights must be above 0 and sum to 1")
    return {branch: float(values[branch]) for branch in BRANCHES if branch in values}
