"""How an image of any size becomes a square: squeezed, or resized by its shorter side and cropped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["ImageFit"]

_LONGEST = 32
"""A longer side is cut before resizing to at most this many times the shorter one: more would only take memory."""


@dataclass(frozen=True, kw_only=True)
class ImageFit:
    """What is done to each image."""

    size: int
    crop: float = 0.0
    """Share of the resized image's shorter side that is kept, from the middle; 0: squeezed, nothing is cut off."""
    interpolation: str = "bilinear"
    """One of Pillow's Resampling, in small letters."""

    @classmethod
    def of(cls, fit: ImageFit | int) -> ImageFit:
        """A number is a side in pixels: squeezed, bilinear."""
        return fit if isinstance(fit, ImageFit) else cls(size=fit)

    @property
    def name(self) -> str:
        """Tells it from all others in a file's name."""
        plain = self == ImageFit(size=self.size)
        return str(self.size) if plain else f"{self.size}-{self.interpolation}-{self.crop!r}"

    @property
    def shortest(self) -> int:
        """The shorter side after resizing, where the image is cropped."""
        # A share such as 224 / 256 was rounded, and its reciprocal may end just below the whole number.
        return max(self.size, int(self.size / self.crop + 1e-6))

    def squared(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """An RGB image [h, w, 3] as [S, S, 3]."""
        resampling = Image.Resampling[self.interpolation.upper()]
        if not self.crop:
            if image.shape[:2] == (self.size, self.size):
                return image
            return np.asarray(Image.fromarray(image).resize((self.size, self.size), resampling))
        image = _less_long(image)
        height, width = image.shape[:2]
        shorter = min(height, width)
        tall, wide = (int(self.shortest * side / shorter) for side in (height, width))
        resized = np.asarray(Image.fromarray(image).resize((wide, tall), resampling))
        return _middle(resized, self.size, self.size)


def _less_long(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    longest = _LONGEST * min(height, width)
    return _middle(image, min(height, longest), min(width, longest))


def _middle(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]
