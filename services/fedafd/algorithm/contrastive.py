"""Soft contrastive loss: each pair of a batch matches with a probability that falls with the distance.

Source: PCME, arXiv 2101.05068, in its deterministic form with one embedding per item.
Shape legend: B items of the batch, D embedding dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedafd.algorithm.checks import check_same_shape, check_shape, compute_dtype

__all__ = ["SoftContrastiveLoss"]


class SoftContrastiveLoss(nn.Module):
    """Sum over all pairs, both directions, of -log p(match) on the diagonal and -log(1 - p) off it.

    p = sigmoid2(-a * ||x_i - y_j|| + b), sigmoid2(s) = e^s / (e^s + e^-s) = sigmoid(2 s). The learnable scalars are
    `scale` (a) and `shift` (b); the paper starts both at 15.
    """

    def __init__(self, scale: float = 15.0, shift: float | None = None) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(float(scale)))
        self.shift = nn.Parameter(torch.tensor(float(scale if shift is None else shift)))

    def match_logits(self, x_BD: Tensor, y_BD: Tensor) -> Tensor:
        """s_ij = -a * ||x_i - y_j|| + b, [B, B], in float32 or better; also for unequal numbers of rows."""
        dtype = compute_dtype(x_BD, y_BD)
        # Differences, not the expanded square: exact near zero, where the gradient of the square root is steep.
        distance_BB = torch.cdist(x_BD.to(dtype), y_BD.to(dtype), compute_mode="donot_use_mm_for_euclid_dist")
        return self.shift - self.scale * distance_BB

    def forward(self, x_BD: Tensor, y_BD: Tensor) -> Tensor:
        """The loss, a scalar: row i of `x_BD` matches row i of `y_BD` and no other.

        Raises InvalidTensorError for other shapes than two equal [B, D]. A value that is not finite gives a loss
        that is not finite: the training step checks that once.
        """
        check_shape("x_BD", x_BD, None, None)
        check_same_shape("y_BD", y_BD, "x_BD", x_BD)
        logits_BB = self.match_logits(x_BD, y_BD)
        sign_BB = 1 - 2 * torch.eye(len(logits_BB), device=logits_BB.device, dtype=logits_BB.dtype)
        # -log sigmoid(2 s) = softplus(-2 s). The distance is symmetric, so both directions are the same terms.
        return 2 * F.softplus(2 * sign_BB * logits_BB).sum()
