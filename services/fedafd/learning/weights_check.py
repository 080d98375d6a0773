"""Whether pretrained weights are there and fit, before anything long begins: what a hub holds is fetched once, here."""

from __future__ import annotations

from collections.abc import Iterable

from fedafd.domain.config import EncoderConfig, FederationConfig
from fedafd.domain.kinds import Modality
from fedafd.learning.pretrained import pretrained_tokenizer
from fedafd.learning.sample_encoder import SampleEncoder

__all__ = ["check_weights", "encoders_of"]

_DIM = 8


def encoders_of(config: FederationConfig) -> list[tuple[EncoderConfig, Modality]]:
    """The encoders that a federation's configuration names."""
    return [(config.image_encoder, Modality.IMAGE), (config.text_encoder, Modality.TEXT)]


def check_weights(encoders: Iterable[tuple[EncoderConfig, Modality]]) -> None:
    """Load each pretrained encoder and let it go. Raises ConfigurationError for what is missing or does not fit."""
    checked = set()
    for config, modality in encoders:
        name = config.model_dump_json()
        if config.pretrained is None or name in checked:
            continue
        checked.add(name)
        SampleEncoder(
            config,
            modality,
            dim=_DIM,
            tokenizer=pretrained_tokenizer(config) if modality is Modality.TEXT else None,
        )
