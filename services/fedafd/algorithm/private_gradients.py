"""The two steps of DP-SGD that make a gradient private: each sample's share is clipped, and their sum is noised.

Source: Abadi et al., arXiv 1607.00133. Shape legend: B samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedafd.algorithm.checks import check_positive

__all__ = ["clipped_sum", "gaussian_like"]

_ROUNDING = 1e-5
"""Clipped to so much less, that float32 makes no sample's share longer than the bound."""


def clipped_sum(gradients: Sequence[Tensor], clip: float) -> list[Tensor]:
    """Sum over samples of gradients [B, ...] of several parameters, each sample's whole cut to the length `clip`.

    A sample whose gradient has no finite length counts as zero: whatever it held, the sum stays bounded.
    """
    check_positive("clip", clip)
    flat = [each.reshape(each.shape[0], math.prod(each.shape[1:])) for each in gradients]
    norms_B = torch.stack([torch.linalg.vector_norm(rows_BP, dim=1) for rows_BP in flat]).norm(dim=0)
    finite_B = norms_B.isfinite()
    factors_B = (clip * (1 - _ROUNDING) / norms_B.clamp(min=clip)).where(finite_B, torch.zeros_like(norms_B))
    summed = []
    for each, rows_BP in zip(gradients, flat, strict=True):
        kept_BP = rows_BP.where(finite_B.unsqueeze(1), torch.zeros_like(rows_BP))
        summed.append((factors_B.to(each.dtype) @ kept_BP).view(each.shape[1:]))
    return summed


def gaussian_like(tensors: Sequence[Tensor], deviation: float, generator: np.random.Generator) -> list[Tensor]:
    """Independent Gaussian noise of the shape, type and place of each tensor."""
    return [
        torch.from_numpy(deviation * generator.standard_normal(tuple(each.shape), dtype=np.float32)).to(each)
        for each in tensors
    ]
