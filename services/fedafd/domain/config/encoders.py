"""The block of one encoder, in `federation.yaml` and in `agent.yaml`."""

from __future__ import annotations

from pydantic import Field, JsonValue

from fedafd.domain.config.base import Config, Positive
from fedafd.domain.paths import HubIdOrFolder

__all__ = ["EncoderConfig"]


class EncoderConfig(Config):
    """One encoder: a backbone and a projection to D.

    `architecture` names an entry point of the group `fedafd.encoders`. `pretrained` is a hub id or a local
    folder for `from_pretrained`; without it the backbone starts from `options`, which are passed to the
    architecture's own configuration (for example transformers.ResNetConfig). A pretrained backbone brings its own
    options, tokenizer and pixel normalisation; `options` are then not used.
    """

    architecture: str = Field(
        description="Kind of the backbone: `resnet`, `bigru`, `bert` and so on, or one of an installed package"
        " (entry point group `fedafd.encoders`): docs/models.md."
    )
    pretrained: HubIdOrFolder | None = Field(
        None, description="Hub id or folder that the backbone's weights come from; null: fresh weights."
    )
    options: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Size of a backbone with fresh weights, in the words of its architecture: docs/models.md.",
    )
    image_size: int = Field(64, ge=8, le=1024, description="Side of the square input in pixels; image encoders.")
    max_tokens: int = Field(32, ge=4, le=512, description="Tokens kept of a text; text encoders.")
    image_mean: tuple[float, float, float] | None = Field(
        None, description="Per channel, of pixels in 0..1; null: the pretrained folder's, else 0.5."
    )
    image_std: tuple[Positive, Positive, Positive] | None = Field(
        None, description="Per channel, of pixels in 0..1; null: the pretrained folder's, else 0.25."
    )
