"""The bytes of a tensor, as safetensors stores them, and the tensors of such bytes."""

from __future__ import annotations

import io
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from fedafd.artifacts.headers import need_few_tensors

__all__ = ["bytes_of", "tensors_of"]


def bytes_of(tensor: Tensor) -> memoryview:
    """Without a copy where the tensor is contiguous and on the host."""
    flat: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(flat)


def tensors_of(content: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name. Raises ValueError or SafetensorError for another file, and for more
    tensors than are loaded of what somebody else sent."""
    need_few_tensors(io.BytesIO(content))
    return load(content)
