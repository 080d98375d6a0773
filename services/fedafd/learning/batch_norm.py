"""Batch normalisation where a batch is not what torch takes it for: split among processes, or a single value.

Of a batch that several processes hold a slice of each, the statistics are the whole batch's. On GPUs torch's
SyncBatchNorm does that; it has no CPU form, so here is one: mean and variance by two sums over all processes, each with
its gradient. A batch that has one value per channel (one sample, at one position) has no variance: it is normalised by
the running statistics, and leaves them alone.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional as F

__all__ = ["accept_single_values", "synchronise"]


def accept_single_values(model: nn.Module) -> None:
    """Make batch-normalisation layers of any kind take a batch with one value per channel, in place."""
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and not isinstance(layer, _Patient):
            # Of the layer's own class, so that it stays what it was else: a state, an activation behind it.
            layer.__class__ = type(type(layer).__name__, (_Patient, type(layer)), {})


class _Patient(nn.modules.batchnorm._BatchNorm):
    """A BatchNorm that trains on a single value per channel as it is used: by the running statistics."""

    def forward(self, input: Tensor) -> Tensor:
        """As the layer does, if it can."""
        if not self.training or input.numel() != input.shape[1] or self.running_mean is None:
            normalised: Tensor = super().forward(input)
            return normalised
        self.training = False
        try:
            normalised = super().forward(input)
        finally:
            self.training = True
        return normalised


def synchronise(encoder: nn.Module, device: torch.device) -> None:
    """Make the encoder's batch-normalisation layers use the statistics of all processes, in place."""
    for module in encoder.modules():
        for name, layer in module.named_children():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                if device.type == "cuda":
                    setattr(module, name, nn.SyncBatchNorm.convert_sync_batchnorm(layer))
                else:
                    layer.__class__ = _SharedBatchNorm


class _SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """A BatchNorm of any dimension that became shared: same parameters, buffers and name in the state."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any [B, C, ...]."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [B, C, ...] by the statistics of every process's rows."""
        if not self.training:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        count = dist.get_world_size() * input.numel() // input.shape[1]
        axes = [0, *range(2, input.dim())]
        shape = [1, -1, *[1] * (input.dim() - 2)]
        values = input.float()
        mean_C = all_reduce(values.sum(axes)) / count
        centred = values - mean_C.view(shape)
        variance_C = all_reduce(centred.square().sum(axes)) / count
        self._remember(mean_C.detach(), variance_C.detach() * (count / max(count - 1, 1)))
        normal = centred * torch.rsqrt(variance_C + self.eps).view(shape)
        if self.affine:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        output: Tensor = normal.to(input.dtype)
        return output

    @torch.no_grad()
    def _remember(self, mean_C: Tensor, variance_C: Tensor) -> None:
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean_C, share)
        self.running_var.lerp_(variance_C, share)
