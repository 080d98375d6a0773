"""A log-linear pool of classifiers, and the weights that a validation split bears out against one of them.

Of independent labels the pool of each label's two probabilities is the weighted mean of its logits.

Source: the logarithmic opinion pool of Genest and Zidek, Statistical Science 1(1), 1986; weights on a simplex from
samples that no member was trained on are stacking: Breiman, Machine Learning 24, 1996. Among weights that cannot be
told from the best the most cautious ones are taken, as fedafd.algorithm.choices says.
Shape legend: K classifiers, n samples, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from fedafd.algorithm.checks import InvalidTensorError, check_finite, check_labels, check_same_shape, check_shape
from fedafd.algorithm.choices import as_good
from fedafd.algorithm.metrics import class_weights

__all__ = ["fit_pool", "fit_weights", "pooled", "pooled_labels"]

_ROUNDING = 1e-9
"""Of a mean of scores: importances that are no whole numbers do not add up alike in each order."""


def pooled(logits: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Log-probabilities [n, C]: the weighted mean of the classifiers' own, normalised.

    `logits`: of each classifier, [n, C]. A classifier of weight 0 is not looked at; one of weight 1 gives its own
    log-probabilities to the bit. Raises InvalidTensorError for shapes that differ, and without a weight above 0.
    """
    taken = _taken(logits, weights)
    if len(taken) == 1:
        return F.log_softmax(taken[0][1], dim=-1)
    mixed = torch.stack([weight * F.log_softmax(logits_BC, dim=-1) for weight, logits_BC in taken]).sum(0)
    return F.log_softmax(mixed, dim=-1)


def pooled_labels(logits: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Logits [n, C] of independent labels: the weighted mean of the classifiers' own.

    A classifier of weight 0 is not looked at; one of weight 1 gives its own logits. Raises as `pooled` does.
    """
    taken = _taken(logits, weights)
    if len(taken) == 1:
        return taken[0][1]
    return torch.stack([weight * logits_BC for weight, logits_BC in taken]).sum(0)


def _taken(logits: Sequence[Tensor], weights: Sequence[float]) -> list[tuple[float, Tensor]]:
    """The classifiers with a weight, which have one shape."""
    if len(logits) != len(weights):
        raise InvalidTensorError(f"weights: {len(weights)} of them for {len(logits)} classifiers")
    taken = [(weight, logits_BC) for weight, logits_BC in zip(weights, logits, strict=True) if weight > 0]
    if not taken:
        raise InvalidTensorError(f"weights: expected one above 0, got {list(weights)}")
    for _, logits_BC in taken[1:]:
        check_same_shape("logits", logits_BC, "the first classifier's", taken[0][1])
    return taken


def fit_pool(
    logits: Sequence[Tensor],
    labels_n: Tensor,
    class_counts: Tensor | None = None,
    *,
    errors: float = 1.0,
    steps: int = 4,
) -> tuple[float, ...]:
    """`fit_weights` by the accuracy on samples that no classifier was trained on.

    Accuracy and not likelihood: members that were trained on few of the classes are too sure of themselves, which says
    little of how often they are right. `logits`: of each classifier, [n, C]. `class_counts` [C]: a client's training
    labels by class; the pool is then no worse than the first classifier where classes come as often as there, either.
    Raises InvalidTensorError for shapes that differ, NaN or infinity, labels out of range.
    """
    if not logits:
        raise InvalidTensorError("logits: at least one classifier is needed")
    check_shape("logits", logits[0], None, None)
    for logits_BC in logits:
        check_same_shape("logits", logits_BC, "the first classifier's", logits[0])
        check_finite("logits", logits_BC)
    check_labels("labels_n", labels_n, *logits[0].shape)
    log_probs = [F.log_softmax(logits_BC.double(), dim=-1) for logits_BC in logits]
    own = [] if class_counts is None else [class_weights(labels_n, class_counts)]
    return fit_weights(
        len(logits), lambda weights: _right(log_probs, weights, labels_n), also=own, errors=errors, steps=steps
    )


def fit_weights(
    count: int,
    score: Callable[[tuple[float, ...]], Tensor],
    *,
    also: Sequence[Tensor] = (),
    errors: float = 1.0,
    steps: int = 4,
) -> tuple[float, ...]:
    """Weights of `count` classifiers that sum to 1, multiples of 1 / `steps`, by the pool's scores of samples [n].

    Of the weights that are `as_good` as the best ones, within `errors` standard errors, those with the most for the
    first classifier; then the best. So what cannot be told from chance takes nothing from the first classifier, and on
    these samples the pool is at least as good as it. `also`: importances of the samples [n], not negative; by each of
    them, too, the pool is at least as good as the first classifier. Raises InvalidTensorError for steps below 1.
    """
    if steps < 1:
        raise InvalidTensorError(f"steps: expected 1 or more, got {steps}")
    scored = {weights: score(weights) for weights in _simplex(count, steps)}
    first = next(iter(scored.values()))
    means = [torch.ones_like(first), *(importance.to(first) for importance in also)]
    safe = {w: s for w, s in scored.items() if all((by * (s - first)).sum() >= -_ROUNDING * by.sum() for by in means)}
    best = max(safe.values(), key=lambda scores: float(scores.mean()))
    good = [weights for weights, scores in safe.items() if as_good(scores, best, errors=errors)]
    return max(good, key=lambda weights: (weights[0], float(scored[weights].mean())))


def _right(log_probs: Sequence[Tensor], weights: Sequence[float], labels_n: Tensor) -> Tensor:
    """1 for each sample that the pool tells right [n]."""
    return (pooled(log_probs, weights).argmax(-1) == labels_n).double()


def _simplex(count: int, steps: int) -> Iterator[tuple[float, ...]]:
    """All weights that sum to 1 in multiples of 1 / `steps`; all for the first classifier comes first."""
    for parts in product(range(steps, -1, -1), repeat=count):
        if sum(parts) == steps:
            yield tuple(part / steps for part in parts)
