"""A log-linear pool of classifiers, and the weights that a validation split bears out against one of them.

Source: the logarithmic opinion pool of Genest and Zidek, Statistical Science 1(1), 1986; weights on a simplex from
samples that no member was trained on are stacking: Breiman, Machine Learning 24, 1996. Judging a candidate by a lower
bound of its gain over what is safe: Thomas, Theocharous and Ghavamzadeh, ICML 2015.
Shape legend: K classifiers, G candidates, n samples, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from fedafd.algorithm.checks import InvalidTensorError, check_finite, check_labels, check_same_shape, check_shape

__all__ = ["fit_pool", "pooled"]


def pooled(logits: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Log-probabilities [n, C]: the weighted mean of the classifiers' own, normalised.

    `logits`: of each classifier, [n, C]. A classifier of weight 0 is not looked at; one of weight 1 gives its own
    log-probabilities to the bit. Raises InvalidTensorError for shapes that differ, and without a weight above 0.
    """
    if len(logits) != len(weights):
        raise InvalidTensorError(f"weights: {len(weights)} of them for {len(logits)} classifiers")
    taken = [(weight, each) for weight, each in zip(weights, logits, strict=True) if weight > 0]
    if not taken:
        raise InvalidTensorError(f"weights: expected one above 0, got {list(weights)}")
    if len(taken) == 1:
        return F.log_softmax(taken[0][1], dim=-1)
    for _, each in taken[1:]:
        check_same_shape("logits", each, "the first classifier's", taken[0][1])
    mixed = torch.stack([weight * F.log_softmax(each, dim=-1) for weight, each in taken]).sum(0)
    return F.log_softmax(mixed, dim=-1)


def fit_pool(logits: Sequence[Tensor], labels_n: Tensor, *, errors: float = 2.0, steps: int = 4) -> tuple[float, ...]:
    """Weights [K] that sum to 1, multiples of 1 / `steps`: those whose gain over the first classifier is the surest.

    The gain is the mean difference of a sample's log-likelihood to the first classifier's, less so many standard
    `errors` of that mean. The first classifier by itself gains 0 for sure, so nothing is taken in whose gain cannot be
    told from chance; of equals the first classifier has the most weight. `logits`: of each classifier, [n, C], of
    samples that none was trained on. Raises InvalidTensorError for shapes that differ, NaN or infinity, labels out of
    range.
    """
    if not logits:
        raise InvalidTensorError("logits: at least one classifier is needed")
    if steps < 1:
        raise InvalidTensorError(f"steps: expected 1 or more, got {steps}")
    check_shape("logits", logits[0], None, None)
    for each in logits:
        check_same_shape("logits", each, "the first classifier's", logits[0])
        check_finite("logits", each)
    check_labels("labels_n", labels_n, *logits[0].shape)
    log_probs = [F.log_softmax(each.double(), dim=-1) for each in logits]
    labels_n1, count = labels_n.long().unsqueeze(1), len(labels_n)
    first_n = log_probs[0].gather(1, labels_n1).squeeze(1)
    best, surest = (1.0, *[0.0] * (len(logits) - 1)), 0.0
    for weights in _simplex(len(logits), steps) if count > 1 else ():
        gain_n = pooled(log_probs, weights).gather(1, labels_n1).squeeze(1) - first_n
        sure = float(gain_n.mean()) - errors * float(gain_n.std()) / math.sqrt(count)
        if sure > surest:
            best, surest = weights, sure
    return best


def _simplex(count: int, steps: int) -> Iterator[tuple[float, ...]]:
    """All weights that sum to 1 in multiples of 1 / `steps`, those with the most for the first one first."""
    for parts in product(range(steps, -1, -1), repeat=count):
        if sum(parts) == steps:
            yield tuple(part / steps for part in parts)
