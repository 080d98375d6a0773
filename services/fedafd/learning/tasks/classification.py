"""`classification`: each sample has one class. Cross-entropy, accuracy, a log-linear pool of the branches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fedafd.algorithm.at_once import head_losses
from fedafd.algorithm.heads import ClassificationHead
from fedafd.algorithm.pooling import fit_pool, pooled
from fedafd.domain.config import ClientTrainingConfig
from fedafd.domain.kinds import ClientKind
from fedafd.learning.scoring import score_classes
from fedafd.learning.tasks.base import Metric, Scored

__all__ = ["Classification"]

_LOGIT_SCALE = 10.0


class Classification:
    """Of image and text clients; another loss of one class per sample is a subclass that has its own `loss`."""

    kinds = frozenset({ClientKind.IMAGE, ClientKind.TEXT})
    title = "classification"
    metric = Metric("acc1")
    several_labels = False

    def make_head(self, dim: int, num_labels: int) -> Any:
        """Class weights that are not negative (fedafd.algorithm.heads)."""
        return ClassificationHead(dim, num_labels, logit_scale=_LOGIT_SCALE)

    def loss(self, logits_BC: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(logits_BC, labels.long())

    def head_loss(self, head: Any, client: ClientTrainingConfig) -> Tensor | None:
        """The term that keeps class directions apart."""
        apart: Tensor = client.separation_weight * head.separation_loss()
        return apart

    def losses(self, head: Any, views: Sequence[Tensor], labels: Tensor) -> Tensor:
        """In few operators where the loss is the cross-entropy."""
        if type(self).loss is Classification.loss:
            return head_losses(head, views, labels)
        return torch.stack([self.loss(head(view), labels) for view in views])

    def score(self, logits: Tensor, labels: Tensor, trained: Tensor) -> Scored:
        """Accuracies."""
        return score_classes(logits, labels, trained)

    def pool(self, logits: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """Log-probabilities."""
        return pooled(logits, weights)

    def fit_pool(self, logits: Sequence[Tensor], labels: Tensor, trained: Tensor) -> Sequence[float]:
        """By accuracy, which must not fall for the classes as the client has them, either."""
        return fit_pool(logits, labels, torch.bincount(trained.long(), minlength=logits[0].shape[1]))

    def probabilities(self, logits: Tensor) -> Tensor:
        """They sum to 1."""
        return logits.log_softmax(-1).exp()
