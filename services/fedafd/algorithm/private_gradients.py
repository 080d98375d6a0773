"""The step of DP-SGD that bounds what a sample can do: its share of the gradient is clipped. Noise is learning's.

Source: Abadi et al., arXiv 1607.00133. Shape legend: B samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fedafd.algorithm.checks import check_positive

__all__ = ["clipped_sum"]

_ROUNDING = 1e-5
"""The share by which gradients are clipped below the bound, so that rounding to float32 leads none above it."""


def clipped_sum(gradients: Sequence[Tensor], clip: float) -> list[Tensor]:
    """Sum over samples of gradients [B, ...] of several parameters, each sample's whole cut to the length `clip`.

    A sample whose gradient has no finite length counts as zero: whatever it held, the sum stays bounded.
    """
    check_positive("clip", clip)
    flat = [gradient.reshape(gradient.shape[0], math.prod(gradient.shape[1:])) for gradient in gradients]
    norms_B = torch.stack([torch.linalg.vector_norm(rows_BP, dim=1) for rows_BP in flat]).norm(dim=0)
    finite_B = norms_B.isfinite()
    factors_B = (clip * (1 - _ROUNDING) / norms_B.clamp(min=clip)).where(finite_B, torch.zeros_like(norms_B))
    summed = []
    for gradient, rows_BP in zip(gradients, flat, strict=True):
        kept_BP = rows_BP.where(finite_B.unsqueeze(1), torch.zeros_like(rows_BP))
        summed.append((factors_B.to(gradient.dtype) @ kept_BP).view(gradient.shape[1:]))
    return summed
