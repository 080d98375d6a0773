"""Encoders: a backbone and a projection to D, by the name of an architecture.

Shape legend: B samples, P positions (feature-map cells or tokens), C backbone channels, D embedding dimension.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedafd.domain.config import EncoderConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import Modality
from fedafd.learning.bigru import BiGru
from fedafd.learning.transformer_models import AUTO, FAMILIES, check_modality, make_backbone

__all__ = ["Encoder", "Features", "build_encoder", "encoder_names", "is_built_in"]

GROUP = "fedafd.encoders"
_BIGRU = "bigru"
_TRANSFORMERS = {*FAMILIES, AUTO}
_BUILT_IN = {*_TRANSFORMERS, _BIGRU}


class Features(NamedTuple):
    """What an encoder makes of a batch: unit rows, and the positions they are the weighted mean of."""

    vector_BD: Tensor
    tokens_BPD: Tensor
    weights_BP: Tensor

    def without_tokens(self) -> Features:
        """With no positions, for where nothing reads them: those of a whole split are large."""
        rows, dim = self.vector_BD.shape
        nothing = self.vector_BD.new_empty(rows, 0, dim)
        return Features(self.vector_BD, nothing, self.vector_BD.new_empty(rows, 0))


class Encoder(nn.Module):
    """A backbone that makes positions [B, P, C] with weights [B, P], then a projection to D."""

    def __init__(self, backbone: nn.Module, channels: int, dim: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = nn.Linear(channels, dim)
        self.keeps_statistics = False
        """Batch normalisation is never in training mode."""

    def train(self, mode: bool = True) -> Encoder:
        """As torch's, but for batch normalisation that keeps its statistics."""
        super().train(mode)
        for module in self.backbone.modules() if self.keeps_statistics else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, batch: Tensor) -> Features:
        """Encode scaled pixels [B, 3, S, S] or token ids [B, L]."""
        positions_BPC, weights_BP = self.backbone(batch)
        tokens_BPD = self.projection(positions_BPC)
        pooled_BD = torch.einsum("bp,bpd->bd", weights_BP, tokens_BPD)
        # Float32 for all that follows, also under autocast.
        return Features(F.normalize(pooled_BD.float(), dim=-1), tokens_BPD.float(), weights_BP.float())

    def pooled(self, batch: Tensor) -> Tensor:
        """What the backbone makes of a batch, positions averaged by their weights, [B, C]."""
        positions_BPC, weights_BP = self.backbone(batch)
        return torch.einsum("bp,bpc->bc", weights_BP, positions_BPC)

    def projected(self, pooled_BC: Tensor) -> Features:
        """Features of what `pooled` made: as `forward`'s but for rounding, with one position."""
        tokens_BD = self.projection(pooled_BC).float()
        return Features(F.normalize(tokens_BD, dim=-1), tokens_BD.unsqueeze(1), tokens_BD.new_ones(len(tokens_BD), 1))


def encoder_names() -> list[str]:
    """Names of all architectures: the built-in ones and the entry points of the group `fedafd.encoders`."""
    return sorted({*_BUILT_IN, *(point.name for point in entry_points(group=GROUP))})


def is_built_in(config: EncoderConfig) -> bool:
    """Whether the architecture comes with FedAFD, and not from an entry point."""
    return config.architecture in _BUILT_IN


def build_encoder(
    config: EncoderConfig, modality: Modality, *, dim: int, vocabulary: int = 0, padding: int = 0
) -> Encoder:
    """An encoder as configured; its fresh weights come from torch's global generator.

    `vocabulary`: number of tokens; `padding`: id of the one that stands for none. A plugin gets neither the padding
    (its ids are padded with 0) nor pretrained weights.

    Raises ConfigurationError for an unknown architecture, one of the other modality, or weights that are not there.
    """
    if config.pretrained is not None and config.architecture not in _TRANSFORMERS:
        raise ConfigurationError(
            f"encoder {config.architecture!r} starts from fresh weights; `pretrained` goes with one of"
            f" {', '.join(sorted(_TRANSFORMERS))}"
        )
    if config.pooling is not None and (modality is Modality.IMAGE or config.architecture not in _TRANSFORMERS):
        raise ConfigurationError(f"encoder {config.architecture}: pooling goes with text encoders of transformers")
    if config.architecture == _BIGRU:
        gru = _gru(config, modality, vocabulary)
        return Encoder(gru, gru.channels, dim)
    if config.architecture in _TRANSFORMERS:
        backbone, channels = make_backbone(config, modality, vocabulary=vocabulary, padding=padding)
        encoder = Encoder(backbone, channels, dim)
        if config.projection == "own":
            _pass_on(encoder.projection, config)
        return encoder
    for point in entry_points(group=GROUP):
        if point.name == config.architecture:
            own: Encoder = point.load()(config, dim=dim, vocabulary=vocabulary)
            return own
    raise ConfigurationError(f"encoder {config.architecture!r} is not known; installed: {', '.join(encoder_names())}")


@torch.no_grad()
def _pass_on(projection: nn.Linear, config: EncoderConfig) -> None:
    """Let a projection begin as what changes nothing: the backbone projects already."""
    if projection.in_features != projection.out_features:
        raise ConfigurationError(
            f"embedding_dim: {projection.out_features}, but the own projection of"
            f" {config.pretrained or config.options.get('model_type')} makes {projection.in_features}; set"
            f" embedding_dim: {projection.in_features}, or leave `projection` out"
        )
    nn.init.eye_(projection.weight)
    nn.init.zeros_(projection.bias)


def _gru(config: EncoderConfig, modality: Modality, vocabulary: int) -> BiGru:
    check_modality(config, Modality.TEXT, modality)
    options: dict[str, Any] = config.options
    try:
        return BiGru(vocabulary, **options)
    except TypeError as error:
        raise ConfigurationError(f"encoder bigru, options: {error}") from None
