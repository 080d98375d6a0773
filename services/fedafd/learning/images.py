"""Images as tensors: B images, S pixels a side. Pixels are kept as uint8 [B, 3, S, S] and scaled batch by batch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fedafd.datasets.pixels import resized_all
from fedafd.datasets.public_set import PublicImages

__all__ = ["augmented", "image_pixels", "scaled"]

_SHIFT_SHARE = 8


def image_pixels(images: Iterable[NDArray[np.uint8]], size: int) -> Tensor:
    """Resize to `size` a side (Pillow, bilinear); uint8 [B, 3, size, size].

    Images of a public set come from its cache, memory-mapped, where it has one.
    """
    if isinstance(images, PublicImages):
        return torch.from_numpy(images.resized(size))
    return torch.from_numpy(resized_all(images, size))


def scaled(pixels: Tensor) -> Tensor:
    """uint8 [B, 3, S, S] to float32 about zero mean and unit deviation, channels last in memory."""
    return pixels.float().div_(63.75).sub_(2.0).contiguous(memory_format=torch.channels_last)


def augmented(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Shift by up to an eighth of a side and mirror half of the images; uint8 in, uint8 out."""
    reach = max(1, pixels.shape[-1] // _SHIFT_SHARE)
    padded = F.pad(pixels.float(), (reach,) * 4, mode="replicate").to(torch.uint8)
    y, x = (int(v) for v in torch.randint(0, 2 * reach + 1, (2,), generator=generator))
    shifted = padded[..., y : y + pixels.shape[-2], x : x + pixels.shape[-1]]
    mirror = torch.rand(len(pixels), generator=generator) < 0.5
    return torch.where(mirror.view(-1, 1, 1, 1).to(pixels.device), shifted.flip(-1), shifted)
