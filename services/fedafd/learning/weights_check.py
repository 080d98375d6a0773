"""Whether encoders can be made, before anything long begins: what a hub holds is fetched once, here."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from typing import NamedTuple

import torch

from fedafd.domain.config import EncoderConfig, FederationConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import Modality
from fedafd.learning.encoders import is_built_in
from fedafd.learning.sample_encoder import SampleEncoder
from fedafd.learning.tokens import tokenizer_for

__all__ = ["WantedEncoder", "check_encoders", "encoders_of"]


class WantedEncoder(NamedTuple):
    """An encoder that a run will make, with vectors of `dim` numbers; `where` it is configured."""

    where: str
    config: EncoderConfig
    modality: Modality
    dim: int


def encoders_of(config: FederationConfig) -> list[WantedEncoder]:
    """The encoders that a federation's configuration names."""
    return [
        WantedEncoder("image_encoder", config.image_encoder, Modality.IMAGE, config.embedding_dim),
        WantedEncoder("text_encoder", config.text_encoder, Modality.TEXT, config.embedding_dim),
    ]


def check_encoders(encoders: Iterable[WantedEncoder]) -> None:
    """Make each encoder and let it go: pretrained weights are read, fresh ones take neither time nor memory.

    Raises ConfigurationError for weights that are missing or do not fit, and for options, a projection or a target of
    LoRA that the architecture does not have; it says where.
    """
    checked = set()
    for where, config, modality, dim in encoders:
        name = (config.model_dump_json(), modality, dim)
        if name in checked:
            continue
        checked.add(name)
        # An encoder of somebody else's may not bear tensors without values.
        with torch.device("meta") if config.pretrained is None and is_built_in(config) else nullcontext():
            try:
                tokenizer = tokenizer_for(config, ()) if modality is Modality.TEXT else None
                SampleEncoder(config, modality, dim=dim, tokenizer=tokenizer)
            except ConfigurationError as error:
                raise ConfigurationError(f"{where}: {error}") from None
