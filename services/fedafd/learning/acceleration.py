"""How encoders run while they are trained: bfloat16 autocast, compiled, a batch in parts.

A batch is encoded in parts by recomputing each part's activations when its gradient is due, so that a loss over all
pairs of the batch, which is no sum over parts, keeps its exact gradient with the memory of one part. The idea is that
of GradCache, arXiv 2101.06983; the tool is torch's checkpointing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fedafd.domain.errors import ConfigurationError
from fedafd.learning.encoders import Features

if TYPE_CHECKING:
    from fedafd.learning.sample_encoder import SampleEncoder

_Norm = nn.modules.batchnorm._BatchNorm

__all__ = ["accelerate", "autocasts", "encode_in", "encode_in_parts", "untouched_statistics"]


def accelerate(
    encoders: Iterable[SampleEncoder],
    *,
    device: torch.device,
    autocast: Literal["auto", "bfloat16", "off"],
    accumulate: int,
    compiled: bool,
) -> None:
    """Set how `encoders` run in training. Raises ConfigurationError if they cannot be compiled here."""
    if compiled and device.type == "cpu" and not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        raise ConfigurationError(
            "compile: torch.compile needs a C++ compiler on a CPU; install g++, or set compile: false"
        )
    for encoder in encoders:
        encoder.in_bfloat16, encoder.parts = autocasts(autocast, device), accumulate
        if compiled:
            # In place: the names of the parameters, and so every saved state, stay as they are.
            encoder.network.compile()


def encode_in(
    encoders: Iterable[SampleEncoder], mode: Literal["auto", "bfloat16", "off"], device: torch.device
) -> None:
    """Set how `encoders` encode where nothing is trained: in bfloat16, or in float32."""
    for encoder in encoders:
        encoder.encodes_in_bfloat16 = autocasts(mode, device)


def autocasts(mode: Literal["auto", "bfloat16", "off"], device: torch.device) -> bool:
    """True if products are bfloat16's: `auto` has them so on a GPU."""
    return mode == "bfloat16" or (mode == "auto" and device.type == "cuda")


def encode_in_parts(encode: Callable[[Tensor], Features], rows: Tensor, parts: int, model: nn.Module) -> Features:
    """`encode` of `rows`, of which one of `parts` parts at a time holds activations.

    Equal to encoding all at once where samples do not meet inside the encoder: batch normalisation takes each part's
    own statistics. Dropout draws the same masks again when a part is recomputed.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _Again(model)

    encoded = [
        checkpoint(lambda part: tuple(encode(part)), part, use_reentrant=False, context_fn=contexts)
        for part in rows.chunk(parts)
    ]
    # A text encoder may cut a part after its longest text: pad with positions of weight 0.
    longest = max(tokens_BPD.shape[1] for _, tokens_BPD, _ in encoded)
    vectors, tokens, weights = zip(*encoded, strict=True)
    return Features(
        torch.cat(vectors),
        torch.cat([F.pad(part, (0, 0, 0, longest - part.shape[1])) for part in tokens]),
        torch.cat([F.pad(part, (0, longest - part.shape[1])) for part in weights]),
    )


class _Again(AbstractContextManager[None]):
    """Batch normalisation as it was when this was made, and running statistics that do not count a second time.

    May be entered again and again: a graph that is walked twice is recomputed twice.
    """

    def __init__(self, model: nn.Module) -> None:
        self._tracked = {layer: layer.track_running_stats for layer in _norms(model)}
        self._saved: list[tuple[dict[_Norm, bool], dict[Tensor, Tensor]]] = []

    def __enter__(self) -> None:
        now = {layer: layer.track_running_stats for layer in self._tracked}
        buffers = {
            buffer: buffer.clone() for layer, kept in self._tracked.items() if kept for buffer in layer.buffers()
        }
        self._saved.append((now, buffers))
        for layer, tracked in self._tracked.items():
            layer.track_running_stats = tracked

    def __exit__(self, *_: object) -> None:
        now, buffers = self._saved.pop()
        for layer, tracked in now.items():
            layer.track_running_stats = tracked
        with torch.no_grad():
            for buffer, before in buffers.items():
                buffer.copy_(before)


@contextmanager
def untouched_statistics(model: nn.Module) -> Iterator[None]:
    """Batches are normalised by their own statistics and leave the running ones alone."""
    layers = [layer for layer in _norms(model) if layer.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


def _norms(model: nn.Module) -> list[_Norm]:
    return [module for module in model.modules() if isinstance(module, _Norm)]
