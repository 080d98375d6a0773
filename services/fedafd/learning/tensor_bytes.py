"""The bytes of a tensor, as safetensors stores them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["bytes_of"]


def bytes_of(tensor: Tensor) -> memoryview:
    """Without a copy where the tensor is contiguous and on the host."""
    flat: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(flat)
