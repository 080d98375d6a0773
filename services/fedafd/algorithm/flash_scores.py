"""SED's scores by the log-sum-exp that a flash attention kernel tells beside its output: one launch for all rows.

The kernel takes float16: rows are rounded to 11 bits, three more than bfloat16 keeps. A row's own similarity, which
decides its score, is computed in float32 and put in the place of the rounded one (`corrected`). What is left is the
rounding of the others: each of their logits is off by at most `logit_error`, in either direction, so a score is off by
at most (1 - p) * (exp(logit_error) - 1), where p is the own similarity's share of the sum, and mostly by far less,
since the errors of many others cancel.
Shape legend: N public samples, M rows of one or more clients, D embedding dimension.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["corrected", "fits", "flash_scores", "logit_error"]

_WIDEST = 256
"""Rows that the kernels take; their lengths are multiples of 8."""
_ROWS = 1 << 16
"""Rows at once: bounds the kernel's output, which nobody reads, to 32 MB."""
_HALF_BITS = 11


def fits(global_ND: Tensor) -> bool:
    """True if this GPU and this build of torch have the kernel, and it takes rows as long as these."""
    return (
        global_ND.device.type == "cuda"
        and global_ND.dtype == torch.float32
        and global_ND.shape[1] <= _WIDEST
        and torch.version.hip is None
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(global_ND.device)[0] >= 8
    )


def flash_scores(
    reps_MD: Tensor, own_MD: Tensor, global_ND: Tensor, temperature: float, longest: tuple[float, float]
) -> Tensor:
    """s(m) = <reps[m], own[m]> / tau - log sum_j exp(<reps[m], global[j]> / tau), [M], float32.

    `own_MD`: the row of `global_ND` that belongs to each of `reps_MD`; `longest`: the largest norm of a row of each of
    the two. On a CPU its own kernel of this kind is asked, in float32: in float16 it takes short cuts of its own.
    """
    # By powers of two, which round nothing: float16 holds no number beyond 65,504, and few bits of small ones.
    left, right = (math.ldexp(1.0, math.frexp(norm)[1] - 1) if norm else 1.0 for norm in longest)
    scale = left * right / temperature
    padding = (0, -global_ND.shape[1] % 8)
    keys_ND = F.pad((global_ND / right).half(), padding)
    parts = []
    for start in range(0, len(reps_MD), _ROWS):
        rows_MD, mates_MD = ((rows[start : start + _ROWS].float()) for rows in (reps_MD, own_MD))
        queries_MD = F.pad((rows_MD / left).half(), padding)
        rounded_M = _own(queries_MD.float(), F.pad((mates_MD / right).half(), padding).float()) * scale
        exact_M = _own(rows_MD, mates_MD) / temperature
        log_sum_M = corrected(_log_sum(queries_MD, keys_ND, scale), rounded_M, exact_M)
        parts.append(exact_M - log_sum_M)
    return torch.cat(parts)


def corrected(log_sum_M: Tensor, rounded_M: Tensor, exact_M: Tensor) -> Tensor:
    """The log-sum-exp with the logit `rounded_M`, one of those summed, replaced by `exact_M`, without cancellation."""
    share_M = torch.exp(rounded_M - log_sum_M).clamp(max=1.0)
    return log_sum_M + torch.log1p(share_M * torch.expm1(exact_M - rounded_M))


def logit_error(dim: int, longest: tuple[float, float], temperature: float) -> float:
    """By how much a logit of rounded rows can be off: two roundings, and the sum of `dim` products in float32.

    Numbers too small for float16's full precision add their spacing, which counts for nothing beside a norm near 1.
    """
    unit = math.ldexp(1.0, -_HALF_BITS)
    small = 2 * math.sqrt(dim) * math.ldexp(1.0, -25) * 2
    return (2 * unit + unit * unit + small + dim * math.ldexp(1.0, -24)) * longest[0] * longest[1] / temperature


def _own(left_MD: Tensor, right_MD: Tensor) -> Tensor:
    return (left_MD * right_MD).sum(dim=1)


def _log_sum(queries_MD: Tensor, keys_ND: Tensor, scale: float) -> Tensor:
    """log sum_j exp(scale * <query, key[j]>), [M]: all rows as one head's queries, whichever client's they are."""
    queries, keys = queries_MD[None, None], keys_ND[None, None]
    if queries_MD.device.type == "cpu":
        queries, keys = queries.float(), keys.float()
        attended = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(queries, keys, keys, scale=scale)
    else:
        attended = torch.ops.aten._scaled_dot_product_flash_attention(queries, keys, keys, scale=scale)
    # Some versions round its length up.
    log_sum_M: Tensor = attended[1].flatten()[: len(queries_MD)]
    return log_sum_M
