"""Row-blocked log-softmax of a client's similarity to the global representations: the hot loop of SED.

The inner loop works in base 2: torch's exp2 takes a third of exp's time on a CPU (measured), and the factor log2(e)
costs nothing when it is multiplied into the rows once.
Shape legend: N public samples, D embedding dimension; R rows and C columns of one block.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from fedafd.algorithm.checks import check_finite, check_positive, check_shape, compute_dtype
from fedafd.algorithm.flash_scores import fits, flash_scores

__all__ = ["fold_scores", "has_bfloat16", "longest_row", "similarity_scores"]

Precision = Literal["float32", "bfloat16"]
"""Of the similarities in the normaliser. bfloat16: products of rounded rows, added up in float32; a GPU that has a
flash attention kernel rounds to float16 in its place (fedafd.algorithm.flash_scores)."""

_CPU_BLOCK = (2048, 512)
"""Rows and columns in work at once: 4 MB of float32 stay in cache between the product, the exponential and the sum."""

_DEVICE_BLOCK = (4096, 2048)
"""On an accelerator fewer and larger steps: 32 MB, so that the exponential finds the product in the level-2 cache."""

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
    check_finite("global_reps", global_reps)
    return fold_scores(reps, global_reps.to(compute_dtype(reps, global_reps)), temperature)


def has_bfloat16(device: torch.device) -> bool:
    """True if `device` multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def longest_row(rows_ND: Tensor) -> Tensor:
    """The length of the longest row, a scalar on the rows' device."""
    longest: Tensor = rows_ND.norm(dim=1).max()
    return longest


@torch.no_grad()
def fold_scores(
    reps_ND: Tensor,
    global_ND: Tensor,
    temperature: float,
    precision: Precision = "float32",
    longest: Tensor | None = None,
) -> Tensor:
    """similarity_scores for shapes and global representations already checked, in the dtype of `global_ND`.

    That is float32 or float64. Raises InvalidTensorError for NaN or infinity in `reps_ND`, which the length of its
    longest row tells: a device is waited for once in a fold.

    `precision` bfloat16 counts where `global_ND` is float32 and the hardware has it. A row's own similarity stays
    exact; the error is measured in docs/performance.md. `longest`: what `longest_row` says of `global_ND`, if known.
    """
    device = global_ND.device
    rounded = precision == "bfloat16" and global_ND.dtype == torch.float32 and has_bfloat16(device)
    rows, columns = _CPU_BLOCK if device.type == "cpu" else _DEVICE_BLOCK
    longest = longest_row(global_ND) if longest is None else longest
    norms = torch.stack([longest_row(reps_ND.to(global_ND.dtype)), longest]).tolist()
    if not math.isfinite(norms[0]):  # of large numbers it may be infinite, too
        check_finite("reps", reps_ND)
    if rounded and fits(global_ND):
        return flash_scores(reps_ND, global_ND, global_ND, temperature, (norms[0], norms[1]))
    scores_N = torch.empty(len(reps_ND), dtype=global_ND.dtype, device=device)
    block = scores_N.new_empty(min(rows, len(reps_ND)) * min(columns, len(global_ND)))
    factor = math.log2(math.e) / temperature
    # Cauchy-Schwarz: no logit is larger, so unit rows at tau from 1/60 need no pass for the maximum.
    log_sum = _log2_sum if norms[0] * norms[1] * factor <= _SAFE_LOGIT else _log2_sum_stable
    products = _Products(global_ND, block, rounded)
    is_on_cpu = device.type == "cpu" and global_ND.dtype == torch.float32
    with _bfloat16_products(is_on_cpu and (rounded or _keeps_float32())):
        for start in range(0, len(reps_ND), rows):
            rows_RD = reps_ND[start : start + rows].to(global_ND.dtype) * factor
            own_R = (rows_RD * global_ND[start : start + rows]).sum(dim=1)
            scores_N[start : start + rows] = (own_R - log_sum(rows_RD, products, columns)) * math.log(2)
    return scores_N


class _Products:
    """Blocks of rows times global representations, each in the same memory."""

    def __init__(self, global_ND: Tensor, block: Tensor, rounded: bool) -> None:
        self._halves = rounded and global_ND.device.type == "cuda"
        self._global_ND = global_ND.bfloat16() if self._halves else global_ND
        self._block = block

    def __len__(self) -> int:
        return len(self._global_ND)

    def __call__(self, rows_RD: Tensor, start: int, stop: int) -> Tensor:
        columns_CD = self._global_ND[start:stop]
        shape = (len(rows_RD), len(columns_CD))
        product = self._block[: shape[0] * shape[1]].view(shape)
        if self._halves:
            return torch.mm(rows_RD.bfloat16(), columns_CD.T, out_dtype=torch.float32, out=product)
        return torch.mm(rows_RD, columns_CD.T, out=product)


def _log2_sum(rows_RD: Tensor, products: _Products, columns: int) -> Tensor:
    """log2 sum_j 2^<row, global[j]> of each row, for logits known to be small."""
    total_R = torch.zeros(len(rows_RD), dtype=rows_RD.dtype, device=rows_RD.device)
    for start in range(0, len(products), columns):
        total_R += products(rows_RD, start, start + columns).exp2_().sum(dim=1)
    return total_R.log2_()


def _log2_sum_stable(rows_RD: Tensor, products: _Products, columns: int) -> Tensor:
    """The same for logits of any size: a running maximum over the column blocks."""
    max_R = torch.full((len(rows_RD),), -torch.inf, dtype=rows_RD.dtype, device=rows_RD.device)
    total_R = torch.zeros_like(max_R)
    for start in range(0, len(products), columns):
        logits_RC = products(rows_RD, start, start + columns)
        new_max_R = torch.maximum(max_R, logits_RC.amax(dim=1))
        total_R *= torch.exp2(max_R - new_max_R)
        total_R += logits_RC.sub_(new_max_R[:, None]).exp2_().sum(dim=1)
        max_R = new_max_R
    return total_R.log2_() + max_R


@cache
def _keeps_float32() -> bool:
    """True if _bfloat16_products rounds nothing here and only takes the products from oneDNN in place of MKL.

    So it is on AMD's CPUs. With AVX-512 a block of SED takes 2.1 ms by oneDNN and 4.6 ms by MKL; with AVX2 alone there
    is no difference (5,000 samples: 0.46 s and 0.45 s).
    """
    if not str(torch.cpu.get_capabilities().get("cpu_name", "")).startswith("AMD"):
        return False
    generator = torch.Generator().manual_seed(0)
    # Numbers of 18 bits, whose sums are exact in float32 and would not be if anything were rounded.
    left = torch.randint(-(1 << 18), 1 << 18, (_CPU_BLOCK[0], 64), generator=generator).float()
    right = torch.randint(-1, 2, (_CPU_BLOCK[1], 64), generator=generator).float()
    with _bfloat16_products(wanted=True):
        product = torch.mm(left, right.T)
    return torch.equal(product.double(), left.double() @ right.double().T)


class _Bfloat16Products:
    """Lets the CPU's float32 products round their inputs to bfloat16; what comes out stays float32.

    torch has one switch for the whole process. So the first thread that enters sets it, and the last that leaves puts
    it back: one that ends early takes nothing from another that still computes.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._before = threading.Lock(), 0, ""

    @contextmanager
    def __call__(self, wanted: bool) -> Iterator[None]:
        if not wanted:
            yield
            return
        products: Any = torch.backends.mkldnn
        with self._lock:
            if not self._inside:
                self._before, products.matmul.fp32_precision = products.matmul.fp32_precision, "bf16"
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    products.matmul.fp32_precision = self._before


_bfloat16_products = _Bfloat16Products()
