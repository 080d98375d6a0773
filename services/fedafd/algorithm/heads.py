"""Classification head with non-negative class weights, and the term that keeps class directions apart.

Source: the task loss of FedAFD, arXiv 2603.04890. Shape legend: B samples, C classes, D embedding dimension.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedafd.algorithm.checks import InvalidTensorError, check_labels, check_shape

__all__ = ["ClassificationHead"]


class ClassificationHead(nn.Module):
    """Logits = logit_scale * x W^T with W >= 0, [C, D].

    W is the absolute value of the free parameter: no entry can die at zero, as one clipped there would.
    `logit_scale` is a fixed factor: with unit features and weights that start small, above 1 learns sooner.
    """

    def __init__(self, dim: int, num_classes: int, *, logit_scale: float = 1.0) -> None:
        super().__init__()
        if num_classes < 2:
            raise InvalidTensorError(f"num_classes: expected 2 or more, got {num_classes}")
        self.logit_scale = logit_scale
        self.free_weight = nn.Parameter(torch.empty(num_classes, dim).uniform_(-1 / math.sqrt(dim), 1 / math.sqrt(dim)))

    @property
    def class_weights(self) -> Tensor:
        """W, non-negative, [C, D]."""
        return self.free_weight.abs()

    def forward(self, x_BD: Tensor) -> Tensor:
        """Logits [B, C]."""
        check_shape("x_BD", x_BD, None, self.free_weight.shape[1])
        return self.logit_scale * F.linear(x_BD, self.class_weights)

    def separation_loss(self) -> Tensor:
        """Cross-entropy of W W^T [C, C] against 0 .. C-1, a scalar: each class is most like itself."""
        weights_CD = self.class_weights
        return F.cross_entropy(weights_CD @ weights_CD.T, torch.arange(len(weights_CD), device=weights_CD.device))

    def loss(self, x_BD: Tensor, labels_B: Tensor, *, separation_weight: float = 0.5) -> Tensor:
        """Cross-entropy of the logits plus `separation_weight` times the separation term, a scalar.

        Raises InvalidTensorError for shapes that do not fit and labels out of range.
        """
        logits_BC = self(x_BD)
        check_labels("labels_B", labels_B, *logits_BC.shape)
        return F.cross_entropy(logits_BC, labels_B.long()) + separation_weight * self.separation_loss()
