"""Whether encoders can be made, before anything long begins: what a hub holds is fetched once, here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch

from fedafd.domain.config import EncoderConfig, FederationConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import Modality
from fedafd.learning.building import RoomError
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
    """Make each encoder and let it go: pretrained weights are read, most fresh ones take neither time nor memory.

    Raises ConfigurationError for weights that are missing or do not fit, and for options, a projection or a target of
    LoRA that the architecture does not have; it says where.
    """
    checked = set()
    for wanted in encoders:
        name = (wanted.config.model_dump_json(), wanted.modality, wanted.dim)
        if name in checked:
            continue
        checked.add(name)
        try:
            if not _can_be_made_without_values(wanted):
                _make(wanted)
        except ConfigurationError as error:
            raise ConfigurationError(f"{wanted.where}: {error}") from None


def _can_be_made_without_values(wanted: WantedEncoder) -> bool:
    """Whether a fresh encoder can be made of tensors that have a shape alone. If not, nothing is said against it: most
    families of texts look at values in the pass that tries them out, and so may an encoder of an entry point.

    Raises RoomError for one that is larger than this machine bears: with values it would fill much of it first.
    """
    if wanted.config.pretrained is not None or not is_built_in(wanted.config):
        return False
    try:
        with torch.device("meta"):
            _make(wanted)
    except RoomError:
        raise
    except Exception:  # whatever it is, the encoder with values shows whether it is a fault
        return False
    return True


def _make(wanted: WantedEncoder) -> None:
    tokenizer = tokenizer_for(wanted.config, ()) if wanted.modality is Modality.TEXT else None
    SampleEncoder(wanted.config, wanted.modality, dim=wanted.dim, tokenizer=tokenizer)
