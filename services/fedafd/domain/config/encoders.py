"""The block of one encoder, in `federation.yaml` and in `agent.yaml`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from fedafd.domain.config.base import Config, Count, Positive
from fedafd.domain.paths import HubIdOrFolder

__all__ = ["EncoderConfig", "LoraConfig"]


class LoraConfig(Config):
    """LoRA, arXiv 2106.09685: beside each target layer's frozen weights two small matrices are trained."""

    rank: int = Field(8, ge=1, le=1024, description="Rank of the two matrices.")
    alpha: Count = Field(16, description="Their product counts alpha / rank times.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Chance of an input of the two matrices to be dropped.")
    targets: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        max_length=10_000,
        description="Layers, by the ends of their names; null: the attention's queries and values, where there is no"
        " attention all linear layers, where there are none all convolutions.",
    )


class EncoderConfig(Config):
    """One encoder: a backbone and a projection to D.

    `architecture` names an entry point of the group `fedafd.encoders`. `pretrained` is a hub id, or a hub id and a
    revision (`organisation/name@revision`), or a local folder for `from_pretrained`; without it the backbone
    starts from `options`, which are passed to the architecture's own configuration (for example
    transformers.ResNetConfig). A pretrained backbone brings its own options, tokenizer and pixel normalisation;
    `options` are then not used.
    """

    architecture: str = Field(
        description="Kind of the backbone: `resnet`, `bert` and so on, `auto`, or one of an installed package"
        " (entry point group `fedafd.encoders`): docs/models.md."
    )
    pretrained: HubIdOrFolder | None = Field(
        None,
        description="Hub id, such as organisation/name or organisation/name@revision, or folder that the backbone's"
        " weights come from; null: fresh weights.",
    )
    options: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Size of a backbone with fresh weights, in the words of its architecture: docs/models.md.",
    )
    image_size: int = Field(64, ge=8, le=1024, description="Side of the square input in pixels; image encoders.")
    max_tokens: int = Field(32, ge=4, le=512, description="Tokens kept of a text; text encoders.")
    pooling: Literal["mean", "cls", "pooler"] | None = Field(
        None,
        description="What stands for a text: the mean over its tokens, the first token (cls) or the model's own pooler;"
        " null: as a sentence-transformers folder says, else the mean. Encoders of transformers: docs/models.md.",
    )
    projection: Literal["new", "own"] = Field(
        "new",
        description="What makes D numbers of the backbone's: a fresh linear layer (new), or the projection that a dual"
        " encoder such as CLIP brings (own); embedding_dim must then be its width: docs/models.md.",
    )
    prefix: str | None = Field(
        None,
        max_length=1000,
        description="Put before each text, such as `query: `; null: the default prompt of a sentence-transformers"
        " folder, else nothing.",
    )
    trainable: Literal["all", "head", "lora"] = Field(
        "all",
        description="What is trained: all of it, or the projection alone (head); the backbone then stays as it is, and"
        " its features are computed once; or the projection and small matrices beside the backbone's frozen weights"
        " (lora): docs/models.md.",
    )
    lora: LoraConfig | None = Field(None, description="How `trainable: lora` is done; null: as by default.")
    image_crop: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of an image's shorter side that is kept after resizing, from the middle; 0: squeezed to"
        " a square, nothing is cut off; null: as the pretrained folder's processor does, else 0.",
    )
    image_interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] | None = Field(
        None, description="How images are resized, by Pillow; null: the pretrained folder's, else bilinear."
    )
    image_mean: tuple[float, float, float] | None = Field(
        None, description="Per channel, of pixels in 0..1; null: the pretrained folder's, else 0.5."
    )
    image_std: tuple[Positive, Positive, Positive] | None = Field(
        None, description="Per channel, of pixels in 0..1; null: the pretrained folder's, else 0.25."
    )

    @field_validator("options")
    @classmethod
    def _few_and_small(cls, options: dict[str, JsonValue]) -> dict[str, JsonValue]:
        """Sizes are those of networks that exist: one of a thousand millions asks for more memory than there is."""
        for count, (name, value) in enumerate(_each_number("", options)):
            last = name.rpartition(".")[2]
            limit = next((limit for word, limit in _LARGEST.items() if word in last), None)
            if limit is None and isinstance(value, int) and not any(word in last for word in _NO_COUNT):
                limit = _LARGEST_COUNT
            if limit is not None and abs(value) > limit:
                raise ValueError(f"{name}: {value} is too much; at most {limit} is allowed")
            if count >= _MOST_NUMBERS:
                raise ValueError(f"holds more than {_MOST_NUMBERS} numbers")
        return options

    @model_validator(mode="after")
    def _lora_is_asked_for(self) -> EncoderConfig:
        if self.lora is not None and self.trainable != "lora":
            raise ValueError(f"lora: goes with trainable: lora, but trainable is {self.trainable}")
        return self

    @model_validator(mode="after")
    def _own_projection_is_of_a_dual_encoder(self) -> EncoderConfig:
        if self.projection == "own" and self.architecture != "auto":
            raise ValueError(f"projection: own goes with architecture: auto, but architecture is {self.architecture}")
        if self.projection == "own" and self.pooling is not None:
            raise ValueError("projection: own brings its own pooling; leave `pooling` out")
        return self

    @property
    def adapter(self) -> LoraConfig | None:
        """How LoRA is done; None where it is not."""
        return (self.lora or LoraConfig()) if self.trainable == "lora" else None

    def merged(self) -> EncoderConfig:
        """The same encoder with LoRA's matrices added to the weights."""
        return self if self.adapter is None else self.model_copy(update={"trainable": "all", "lora": None})


_LARGEST = {
    "vocab": 1_000_000,
    "token": 1_000_000,
    "position": 1_000_000,
    **dict.fromkeys(("size", "dim", "width", "channel", "feature"), 16_384),
    "label": 100_000,
    **dict.fromkeys(("depth", "layer", "head", "block", "stage", "expert"), 1024),
}
"""By a word in the option's name, the first that fits."""
_LARGEST_COUNT = 1_000_000
"""Of a whole number whose name has none of these words, nor one that says that it counts nothing."""
_NO_COUNT = ("theta", "seed", "base", "scale", "freq", "factor")
_MOST_NUMBERS = 1000


def _each_number(name: str, value: JsonValue) -> Iterator[tuple[str, float]]:
    """Name and value of each number in the options; those of a list have the list's name."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _each_number(f"{name}.{key}".lstrip("."), inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _each_number(name, inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value
