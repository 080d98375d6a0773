"""Granularity-aware feature fusion (GFF): a learned gate between the client's own feature and the global one.

Source: FedAFD, arXiv 2603.04890, after iterative attentional fusion, AFF, arXiv 2009.14082.
Shape legend: B samples, P positions (feature-map cells or tokens), D embedding dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedafd.algorithm.checks import InvalidTensorError, check_shape
from fedafd.algorithm.choices import as_good

__all__ = ["GATE_OFFSETS", "GranularityAwareFusion", "calibrate_gate"]

GATE_OFFSETS = (-math.inf, -4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0, math.inf)
"""Offsets of the gate's logit that calibration tries, from global only to local only."""

_ERRORS = 2.0


class _Branch(nn.Module):
    """Pointwise bottleneck D -> D/reduction -> D on [..., D]; with normalisation layers on [rows, D]."""

    def __init__(self, dim: int, reduction: int, *, inner_norm: bool, zero_init: bool, bias: float) -> None:
        super().__init__()
        width = max(dim // reduction, 1)
        self.squeeze = nn.Linear(dim, width)
        self.expand = nn.Linear(width, dim)
        self.squeeze_norm: nn.Module = nn.BatchNorm1d(width) if inner_norm else nn.Identity()
        self.expand_norm: nn.Module = nn.BatchNorm1d(dim) if inner_norm else nn.Identity()
        last = self.expand_norm if isinstance(self.expand_norm, nn.BatchNorm1d) else self.expand
        if zero_init:
            nn.init.zeros_(last.weight)
        if last.bias is not None:
            nn.init.constant_(last.bias, bias)

    def forward(self, rows: Tensor) -> Tensor:
        hidden: Tensor = self.squeeze_norm(self.squeeze(rows))
        logits: Tensor = self.expand_norm(self.expand(F.relu(hidden)))
        return logits


class _Attention(nn.Module):
    """One stage: the logit of the weight of the local feature, from a fine and a coarse branch of its own."""

    def __init__(self, dim: int, reduction: int, *, inner_norm: bool, zero_init: bool, gate_init: float) -> None:
        super().__init__()
        self.inner_norm = inner_norm
        self.fine = _Branch(dim, reduction, inner_norm=inner_norm, zero_init=zero_init, bias=gate_init)
        self.coarse = _Branch(dim, reduction, inner_norm=inner_norm, zero_init=zero_init, bias=0.0)

    def forward(self, z_BPD: Tensor, weights_BP: Tensor) -> Tensor:
        """Logits [B, P, D]. Positions of weight 0 (padding) reach no statistics and no pooled summary."""
        coarse_BD: Tensor = self.coarse(_pool(z_BPD, weights_BP))
        if not self.inner_norm:
            fine_BPD: Tensor = self.fine(z_BPD)
        else:
            present_BP = weights_BP > 0
            rows = self.fine(z_BPD[present_BP])
            fine_BPD = rows.new_zeros(z_BPD.shape).masked_scatter(present_BP.unsqueeze(-1), rows)
        return fine_BPD + coarse_BD.unsqueeze(1)


class GranularityAwareFusion(nn.Module):
    """Two attention stages; out = w2 * local + (1 - w2) * global.

    mode: `vector` fuses two feature vectors (one position, so both branches see the same); `tokens` fuses position by
    position, then pools. inner_norm: batch normalisation inside the branches (paper). zero_init: last layers start at
    zero, so that the gate starts at sigmoid(gate_init) everywhere. normalise_output: unit rows. The buffer
    `gate_offset` is added to both stages' logits: 0 while training, then calibrated; -inf gives the global feature
    exactly, +inf the local one.
    """

    gate_offset: Tensor

    def __init__(
        self,
        dim: int = 256,
        *,
        mode: str = "vector",
        reduction: int = 4,
        inner_norm: bool = False,
        zero_init: bool = True,
        gate_init: float = 0.0,
        normalise_output: bool = True,
    ) -> None:
        super().__init__()
        if mode not in ("vector", "tokens"):
            raise InvalidTensorError(f"mode: expected vector or tokens, got {mode}")
        self.dim = dim
        self.mode = mode
        self.normalise_output = normalise_output
        self.stages = nn.ModuleList(
            _Attention(dim, reduction, inner_norm=inner_norm, zero_init=zero_init, gate_init=gate_init)
            for _ in range(2)
        )
        self.register_buffer("gate_offset", torch.zeros(()))

    def forward(self, local: Tensor, global_: Tensor, weights_BP: Tensor | None = None) -> Tensor:
        """The fused feature [B, D].

        vector: `local` and `global_` [B, D]. tokens: `local` [B, P, D]; `global_` [B, P, D], or [B, D], the same at
        every position. `weights_BP`: which positions count and how much: a mask (True: present) or the encoder's own
        non-negative pooling weights, so that "local only" is the encoder's own feature; None: all alike. Each sample
        needs a position that counts. Raises InvalidTensorError for other shapes.
        """
        local_BPD, global_BPD, weights_BP = self._positions(local, global_, weights_BP)
        mixed_BPD = local_BPD + global_BPD
        for stage in self.stages:
            gate_BPD = torch.sigmoid(stage(mixed_BPD, weights_BP) + self.gate_offset)
            mixed_BPD = gate_BPD * local_BPD + (1 - gate_BPD) * global_BPD
        fused_BD = _pool(mixed_BPD, weights_BP)
        return F.normalize(fused_BD, dim=-1) if self.normalise_output else fused_BD

    def set_gate_offset(self, offset: float) -> None:
        """Shift the gate: -inf is global only, 0 as trained, +inf local only. Raises InvalidTensorError for NaN."""
        if math.isnan(offset):
            raise InvalidTensorError("gate offset: expected a number from -inf to inf, got NaN")
        self.gate_offset.fill_(offset)

    def _positions(self, local: Tensor, global_: Tensor, weights_BP: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        if self.mode == "vector":
            check_shape("local", local, None, self.dim)
            check_shape("global", global_, local.shape[0], self.dim)
            return local.unsqueeze(1), global_.unsqueeze(1), local.new_ones(local.shape[0], 1)
        check_shape("local", local, None, None, self.dim)
        batch, positions = local.shape[:2]
        if global_.dim() == 2:
            check_shape("global", global_, batch, self.dim)
            global_ = global_.unsqueeze(1).expand_as(local)
        else:
            check_shape("global", global_, batch, positions, self.dim)
        if weights_BP is None:
            weights_BP = local.new_ones(batch, positions)
        weights_BP = weights_BP.to(local.dtype)
        check_shape("weights_BP", weights_BP, batch, positions)
        return local, global_, weights_BP


def _pool(x_BPD: Tensor, weights_BP: Tensor) -> Tensor:
    """Weighted mean over positions, [B, D]."""
    if x_BPD.shape[1] == 1:
        return x_BPD[:, 0]
    share_BP = weights_BP / weights_BP.sum(dim=1, keepdim=True).clamp(min=torch.finfo(weights_BP.dtype).tiny)
    return torch.einsum("bpd,bp->bd", x_BPD, share_BP)


def calibrate_gate(
    fusion: GranularityAwareFusion, score: Callable[[], Tensor], offsets: Sequence[float] = GATE_OFFSETS
) -> float:
    """Set the offset nearest to 0, the gate as trained, that is `as_good` as the best one, and return it.

    `score` gives a score of each sample of the client's validation split [n] with the fusion as it then is, higher is
    better (eval mode is the caller's). Leaving the gate as trained takes a gain of two standard errors, so that chance
    seldom moves it. With -inf among the offsets the calibrated client is there at most two standard errors below the
    frozen global model. Of two as near to 0 it takes the one on the global side. Raises InvalidTensorError without
    offsets, or for scores that are not finite.
    """
    if not offsets:
        raise InvalidTensorError("offsets: at least one is needed")
    scores: dict[float, Tensor] = {}
    for offset in offsets:
        fusion.set_gate_offset(offset)
        scores[offset] = score()
    best = max(scores.values(), key=lambda accuracies: float(accuracies.double().mean()))
    good = [offset for offset, accuracies in scores.items() if as_good(accuracies, best, errors=_ERRORS)]
    chosen = min(good, key=lambda offset: (abs(offset), offset))
    fusion.set_gate_offset(chosen)
    return chosen
