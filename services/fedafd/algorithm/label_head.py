"""Head for independent labels: one logit per label, each with a bias, as labels are not equally common.

Shape legend: B samples, C labels, D embedding dimension.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedafd.algorithm.checks import InvalidTensorError, check_shape

__all__ = ["LabelHead"]


class LabelHead(nn.Module):
    """Logits = logit_scale * [x, 1] W^T, W [C, D + 1] of any sign; the last column is the bias.

    One tensor with a row per label, as ClassificationHead's is: rows are added, averaged and reordered by name.
    `logit_scale` is a fixed factor: with unit features and weights that start small, above 1 learns sooner.
    """

    def __init__(self, dim: int, num_labels: int, *, logit_scale: float = 1.0) -> None:
        super().__init__()
        if num_labels < 1:
            raise InvalidTensorError(f"num_labels: expected 1 or more, got {num_labels}")
        self.logit_scale = logit_scale
        bound = 1 / math.sqrt(dim + 1)
        self.free_weight = nn.Parameter(torch.empty(num_labels, dim + 1).uniform_(-bound, bound))

    def forward(self, x_BD: Tensor) -> Tensor:
        """Logits [B, C]."""
        weight_CD, bias_C = self.free_weight[:, :-1], self.free_weight[:, -1]
        check_shape("x_BD", x_BD, None, weight_CD.shape[1])
        return self.logit_scale * F.linear(x_BD, weight_CD, bias_C)
