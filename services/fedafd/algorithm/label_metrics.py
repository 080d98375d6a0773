"""Evaluation in percent where a sample may have several labels, or none.

Ties count against the model: a wrong label whose logit equals a right one's ranks before it.
Sources: label ranking average precision is Schapire and Singer's average precision over labels, Machine Learning 39,
2000; average precision by label and its mean as in PASCAL VOC since 2010.
Shape legend: B samples, C labels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedafd.algorithm.checks import InvalidTensorError, check_finite, check_same_shape, check_shape

__all__ = ["check_label_sets", "label_ranking_scores", "mean_average_precision", "micro_f1"]


def check_label_sets(name: str, labels_BC: Tensor) -> None:
    """Refuse label sets that are not 0 and 1, [B, C]. Of labels on a GPU the values are left to it."""
    if labels_BC.dim() != 2 or not all(labels_BC.shape):
        raise InvalidTensorError(f"{name}: expected shape [any, any], got {list(labels_BC.shape)}", name=name)
    if labels_BC.device.type == "cpu" and not bool(((labels_BC == 0) | (labels_BC == 1)).all()):
        raise InvalidTensorError(f"{name}: expected 0 and 1 only", name=name)


@torch.no_grad()
def label_ranking_scores(logits_BC: Tensor, labels_BC: Tensor) -> Tensor:
    """Each sample's ranking average precision in percent [B]; the mean is `lrap`.

    Over the sample's labels, the mean share of right ones among those that rank as high. A sample without a label, or
    with all of them, has no wrong order: 100. Raises InvalidTensorError for shapes that differ, NaN, and
    labels other than 0 and 1.
    """
    right_BC = _checked(logits_BC, labels_BC)
    ranks_BC = _counts_at_or_above(logits_BC, torch.ones_like(right_BC))
    right_ranks_BC = _counts_at_or_above(logits_BC, right_BC)
    shares_B = torch.where(right_BC, right_ranks_BC / ranks_BC, 0.0).sum(dim=1)
    count_B = right_BC.sum(dim=1)
    return torch.where(count_B > 0, 100.0 * shares_B / count_B.clamp(min=1), 100.0)


@torch.no_grad()
def mean_average_precision(logits_BC: Tensor, labels_BC: Tensor) -> float:
    """Mean over the labels with a sample of each one's average precision over the samples, in percent; 0 without one.

    Raises InvalidTensorError as label_ranking_scores does.
    """
    right_BC = _checked(logits_BC, labels_BC)
    precisions = [_average_precision(logits_BC[:, c].double(), right_BC[:, c]) for c in range(right_BC.shape[1])]
    defined = [precision for precision in precisions if precision is not None]
    return 100.0 * sum(defined) / len(defined) if defined else 0.0


@torch.no_grad()
def micro_f1(logits_BC: Tensor, labels_BC: Tensor) -> float:
    """F1 over all decisions together, in percent: a label is given where its probability is above a half.

    100 where there is no label and none is given. Raises InvalidTensorError as label_ranking_scores does.
    """
    right_BC = _checked(logits_BC, labels_BC)
    given_BC = logits_BC > 0
    both, either = int((given_BC & right_BC).sum()), int(given_BC.sum()) + int(right_BC.sum())
    return 200.0 * both / either if either else 100.0


def _average_precision(logits_B: Tensor, right_B: Tensor) -> float | None:
    hits_P = logits_B[right_B]
    if not len(hits_P):
        return None
    ranks_P = _at_or_above(hits_P, logits_B)
    return float((_at_or_above(hits_P, hits_P) / ranks_P).mean())


def _at_or_above(values: Tensor, among: Tensor) -> Tensor:
    """How many `among` are as high as each of `values`, or higher."""
    return (len(among) - torch.searchsorted(among.sort().values, values)).double()


def _counts_at_or_above(logits_BC: Tensor, counted_BC: Tensor) -> Tensor:
    """For each label of a sample, how many of the counted ones have as high a logit, or a higher one [B, C]."""
    kept_BC = torch.where(counted_BC, logits_BC.double(), -torch.inf)
    order_BC = kept_BC.sort(dim=1).values
    below_BC = torch.searchsorted(order_BC, logits_BC.double().contiguous())
    return (logits_BC.shape[1] - below_BC).double()


def _checked(logits_BC: Tensor, labels_BC: Tensor) -> Tensor:
    check_shape("logits", logits_BC, None, None)
    check_finite("logits", logits_BC)
    check_same_shape("labels", labels_BC, "logits", logits_BC)
    check_label_sets("labels", labels_BC)
    return labels_BC.to(logits_BC.device).bool()
