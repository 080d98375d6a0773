"""`multi-label`: each sample has several labels, or none. Binary cross-entropy, ranking average precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fedafd.algorithm.label_head import LabelHead
from fedafd.algorithm.label_metrics import label_ranking_scores, mean_average_precision, micro_f1
from fedafd.algorithm.pooling import fit_weights, pooled_labels
from fedafd.domain.config import ClientTrainingConfig
from fedafd.domain.kinds import ClientKind
from fedafd.learning.tasks.base import Metric, Scored

__all__ = ["MultiLabel"]

_LOGIT_SCALE = 10.0


class MultiLabel:
    """Of image and text clients; another loss of independent labels is a subclass that has its own `loss`."""

    kinds = frozenset({ClientKind.IMAGE, ClientKind.TEXT})
    title = "multi-label classification"
    metric = Metric("lrap")
    several_labels = True

    def make_head(self, dim: int, num_labels: int) -> Any:
        """A weight of any sign and a bias for each label."""
        return LabelHead(dim, num_labels, logit_scale=_LOGIT_SCALE)

    def loss(self, logits_BC: Tensor, labels: Tensor) -> Tensor:
        """Binary cross-entropy, the mean over samples and labels."""
        return F.binary_cross_entropy_with_logits(logits_BC, labels.to(logits_BC.dtype))

    def head_loss(self, head: Any, client: ClientTrainingConfig) -> Tensor | None:
        """None: labels that come together may lie together."""
        return None

    def losses(self, head: Any, views: Sequence[Tensor], labels: Tensor) -> Tensor:
        """The head is asked once."""
        logits_VBC = head(torch.cat(list(views))).unflatten(0, (len(views), -1))
        return torch.stack([self.loss(logits_BC, labels) for logits_BC in logits_VBC])

    def score(self, logits: Tensor, labels: Tensor, trained: Tensor) -> Scored:
        """Ranking average precision, by which models are chosen; mean average precision and micro F1 beside it."""
        scores = label_ranking_scores(logits, labels)
        metrics = {"lrap": float(scores.mean()), "map": mean_average_precision(logits, labels)}
        return metrics | {"micro_f1": micro_f1(logits, labels)}, scores

    def pool(self, logits: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """Label by label."""
        return pooled_labels(logits, weights)

    def fit_pool(self, logits: Sequence[Tensor], labels: Tensor, trained: Tensor) -> Sequence[float]:
        """By ranking average precision."""
        exact = [logits_BC.double() for logits_BC in logits]
        return fit_weights(len(exact), lambda weights: label_ranking_scores(pooled_labels(exact, weights), labels))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Each label's own; they do not sum to 1."""
        return logits.sigmoid()
