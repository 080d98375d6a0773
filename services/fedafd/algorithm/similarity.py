"""Row-blocked log-softmax of a client's similarity to the global representations: the hot loop of SED.

Shape legend: N public samples, D embedding dimension; R rows and C columns of one block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedafd.algorithm.checks import check_finite, check_positive, check_shape

__all__ = ["similarity_scores"]

_ROWS, _COLUMNS = 512, 1024
"""Block of similarities in work at once: 2 MB of float32, small enough to stay in cache between its passes."""

_SAFE_LOGIT = 60.0
"""Logits within +-60 need no maximum: sums of up to 1e12 of their exponentials stay inside float32."""


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
    dtype = torch.promote_types(torch.promote_types(reps.dtype, global_reps.dtype), torch.float32)
    global_ND = global_reps.to(dtype)
    scores_N = torch.empty(len(reps), dtype=dtype, device=reps.device)
    largest = global_ND.norm(dim=1).max()
    block = torch.empty(_ROWS * _COLUMNS, dtype=dtype, device=reps.device)
    for start in range(0, len(reps), _ROWS):
        rows_RD = reps[start : start + _ROWS].to(dtype) / temperature
        own_R = (rows_RD * global_ND[start : start + _ROWS]).sum(dim=1)
        # Cauchy-Schwarz: no logit is larger than this, so that unit rows at tau >= 1/60 need no pass for the maximum.
        bounded = float(rows_RD.norm(dim=1).max() * largest) <= _SAFE_LOGIT
        log_sum_R = _log_sum(rows_RD, global_ND, block) if bounded else _log_sum_stable(rows_RD, global_ND, block)
        scores_N[start : start + _ROWS] = own_R - log_sum_R
    return scores_N


def _log_sum(rows_RD: Tensor, global_ND: Tensor, block: Tensor) -> Tensor:
    total_R = torch.zeros(len(rows_RD), dtype=rows_RD.dtype, device=rows_RD.device)
    for columns_CD in global_ND.split(_COLUMNS):
        logits_RC = block[: len(rows_RD) * len(columns_CD)].view(len(rows_RD), len(columns_CD))
        torch.mm(rows_RD, columns_CD.T, out=logits_RC)
        total_R += logits_RC.exp_().sum(dim=1)
    return total_R.log_()


def _log_sum_stable(rows_RD: Tensor, global_ND: Tensor, block: Tensor) -> Tensor:
    """The same for logits of any size: a running maximum over the column blocks."""
    max_R = torch.full((len(rows_RD),), -torch.inf, dtype=rows_RD.dtype, device=rows_RD.device)
    total_R = torch.zeros_like(max_R)
    for columns_CD in global_ND.split(_COLUMNS):
        logits_RC = block[: len(rows_RD) * len(columns_CD)].view(len(rows_RD), len(columns_CD))
        torch.mm(rows_RD, columns_CD.T, out=logits_RC)
        new_max_R = torch.maximum(max_R, logits_RC.amax(dim=1))
        total_R *= torch.exp(max_R - new_max_R)
        total_R += logits_RC.sub_(new_max_R[:, None]).exp_().sum(dim=1)
        max_R = new_max_R
    return total_R.log_() + max_R
