"""Row-blocked log-softmax of a client's similarity to the global representations: the hot loop of SED.

The inner loop works in base 2: torch's exp2 takes a third of exp's time on a CPU (measured), and the factor log2(e)
costs nothing when it is multiplied into the rows once.
Shape legend: N public samples, D embedding dimension; R rows and C columns of one block.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedafd.algorithm.checks import check_finite, check_positive, check_shape, compute_dtype

__all__ = ["scores_unchecked", "similarity_scores"]

_CPU_BLOCK = (2048, 512)
"""Rows and columns in work at once: 4 MB of float32 stay in cache between the product, the exponential and the sum."""

_DEVICE_BLOCK = (4096, 4096)
"""On an accelerator fewer and larger steps: 64 MB."""

_SAFE_LOGIT = 60 * math.log2(math.e)
"""Logits (base 2) within this need no maximum: sums of up to 1e12 of their exponentials stay inside float32."""


@torch.no_grad()
def similarity_scores(reps: Tensor, global_reps: Tensor, temperature: float = 1.0) -> Tensor:
    """s(n) = <reps[n], global[n]> / tau - log sum_j exp(<reps[n], global[j]> / tau), [N].

    `reps`, `global_reps` [N, D] in the public set's order; float16 is computed in float32, float64 stays. Nothing of
    size N x N is made. Raises InvalidTensorError for shapes that do not fit, NaN or infinity, or tau not above 0.
    """
    check_positive("temperature", temperature)
    check_shape("global_reps", global_reps, None, None)
    check_shape("reps", reps, *global_reps.shape)
    check_finite("reps", reps)
    check_finite("global_reps", global_reps)
    return scores_unchecked(reps, global_reps.to(compute_dtype(reps, global_reps)), temperature)


@torch.no_grad()
def scores_unchecked(reps_ND: Tensor, global_ND: Tensor, temperature: float) -> Tensor:
    """similarity_scores for tensors already checked; computed in the dtype of `global_ND`, float32 or float64."""
    rows, columns = _CPU_BLOCK if global_ND.device.type == "cpu" else _DEVICE_BLOCK
    scores_N = torch.empty(len(reps_ND), dtype=global_ND.dtype, device=global_ND.device)
    block = torch.empty(
        min(rows, len(reps_ND)) * min(columns, len(global_ND)), dtype=global_ND.dtype, device=global_ND.device
    )
    largest = global_ND.norm(dim=1).max()
    for start in range(0, len(reps_ND), rows):
        rows_RD = reps_ND[start : start + rows].to(global_ND.dtype) * (math.log2(math.e) / temperature)
        own_R = (rows_RD * global_ND[start : start + rows]).sum(dim=1)
        # Cauchy-Schwarz: no logit is larger, so unit rows at tau from 1/60 need no pass for the maximum.
        bounded = float(rows_RD.norm(dim=1).max() * largest) <= _SAFE_LOGIT
        log_sum = _log2_sum if bounded else _log2_sum_stable
        scores_N[start : start + rows] = (own_R - log_sum(rows_RD, global_ND, block, columns)) * math.log(2)
    return scores_N


def _log2_sum(rows_RD: Tensor, global_ND: Tensor, block: Tensor, columns: int) -> Tensor:
    """log2 sum_j 2^<row, global[j]> of each row, for logits known to be small."""
    total_R = torch.zeros(len(rows_RD), dtype=rows_RD.dtype, device=rows_RD.device)
    for start in range(0, len(global_ND), columns):
        logits_RC = _product(rows_RD, global_ND[start : start + columns], block)
        total_R += logits_RC.exp2_().sum(dim=1)
    return total_R.log2_()


def _log2_sum_stable(rows_RD: Tensor, global_ND: Tensor, block: Tensor, columns: int) -> Tensor:
    """The same for logits of any size: a running maximum over the column blocks."""
    max_R = torch.full((len(rows_RD),), -torch.inf, dtype=rows_RD.dtype, device=rows_RD.device)
    total_R = torch.zeros_like(max_R)
    for start in range(0, len(global_ND), columns):
        logits_RC = _product(rows_RD, global_ND[start : start + columns], block)
        new_max_R = torch.maximum(max_R, logits_RC.amax(dim=1))
        total_R *= torch.exp2(max_R - new_max_R)
        total_R += logits_RC.sub_(new_max_R[:, None]).exp2_().sum(dim=1)
        max_R = new_max_R
    return total_R.log2_() + max_R


def _product(rows_RD: Tensor, columns_CD: Tensor, block: Tensor) -> Tensor:
    shape = (len(rows_RD), len(columns_CD))
    return torch.mm(rows_RD, columns_CD.T, out=block[: shape[0] * shape[1]].view(shape))
