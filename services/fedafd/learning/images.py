"""Images as tensors: B images, S pixels a side. Pixels are kept as uint8 [B, 3, S, S] and scaled batch by batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedafd.datasets.image_fit import ImageFit
from fedafd.datasets.pixels import KeptImages, resized_all
from fedafd.datasets.public_set import PublicImages
from fedafd.domain.config import EncoderConfig
from fedafd.learning.feeding import sent

__all__ = ["Draws", "augmented", "draw", "fit_of", "image_pixels", "moved", "scaled"]

_SHIFT_SHARE = 8


class Draws(NamedTuple):
    """One batch's random choices: where the window lies, and which of the images are mirrored, [B]."""

    y: int
    x: int
    mirrored: Tensor


def fit_of(config: EncoderConfig) -> ImageFit:
    """How an encoder wants its images; what its configuration leaves open is as for fresh weights."""
    return ImageFit(
        size=config.image_size,
        crop=config.image_crop or 0.0,
        interpolation=config.image_interpolation or "bilinear",
    )


def image_pixels(images: Iterable[NDArray[np.uint8]], fit: ImageFit | int) -> Tensor:
    """Bring images to one size (Pillow; a number: squeezed, bilinear); uint8 [B, 3, S, S].

    Images of a public set come from its cache, memory-mapped, where it has one; kept ones are decoded once.
    """
    if isinstance(images, PublicImages | KeptImages):
        return torch.from_numpy(images.resized(fit))
    return torch.from_numpy(resized_all(images, fit))


def scaled(pixels: Tensor, factor: Tensor | float = 63.75, shift: Tensor | float = 2.0) -> Tensor:
    """uint8 [B, 3, S, S] to float32 `pixels / factor - shift`, channels last in memory. One pass makes both."""
    return pixels.to(torch.float32, memory_format=torch.channels_last).div_(factor).sub_(shift)


def augmented(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Shift by up to an eighth of a side, edges repeated, and mirror half of the images; uint8 in, uint8 out."""
    return moved(pixels, draw(len(pixels), pixels.shape[-1], generator))


def moved(pixels: Tensor, draws: Draws) -> Tensor:
    """`augmented` as drawn before, for images that are part of a larger batch."""
    side = pixels.shape[-1]
    reach = _reach(side)
    positions = torch.arange(side)
    down, across = (sent((positions + at - reach).clamp_(0, side - 1), pixels.device) for at in (draws.y, draws.x))
    shifted = pixels.index_select(-2, down).index_select(-1, across)
    rows = sent(draws.mirrored.nonzero().flatten(), pixels.device)
    shifted[rows] = shifted[rows].flip(-1)
    return shifted


def draw(count: int, side: int, generator: torch.Generator) -> Draws:
    """What is to be done to `count` images of `side` pixels."""
    y, x = (int(v) for v in torch.randint(0, 2 * _reach(side) + 1, (2,), generator=generator))
    return Draws(y, x, torch.rand(count, generator=generator) < 0.5)


def _reach(side: int) -> int:
    return max(1, side // _SHIFT_SHARE)
