"""An image encoder of one's own: convolutions that halve the picture, then every place of it as a position.

Shape legend: B pictures, S their side, P positions, C channels of the last layer.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from fedafd.domain.config import EncoderConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.learning.encoders import Encoder

__all__ = ["plain_convnet"]


class PlainConvnet(nn.Module):
    """Each layer: convolution with stride 2, group normalisation, ReLU."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise([3, *widths]):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(4, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Positions [B, P, C] of pixels [B, 3, S, S], and their weights [B, P], which sum to 1: all alike."""
        positions_BPC = self.layers(pixels).flatten(2).transpose(1, 2)
        count = positions_BPC.shape[1]
        return positions_BPC, positions_BPC.new_full(positions_BPC.shape[:2], 1 / count)


def plain_convnet(config: EncoderConfig, *, dim: int, vocabulary: int) -> Encoder:
    """Option `widths`: channels of each layer, multiples of 4. Raises ConfigurationError."""
    options: dict[str, Any] = dict(config.options)
    widths = options.pop("widths", [16, 32])
    if options or not widths or any(not isinstance(width, int) or width < 4 or width % 4 for width in widths):
        raise ConfigurationError("encoder plain-convnet: has one option, widths, a list of multiples of 4")
    return Encoder(PlainConvnet(widths), widths[-1], dim)
