"""The backbone that an encoder's configuration asks transformers for: a family by its short name, or any by `auto`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fedafd.domain.config import EncoderConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import Modality
from fedafd.learning.automatic import any_backbone, fresh_backbone
from fedafd.learning.dual_encoder import DualBackbone, half_of
from fedafd.learning.pretrained import pretrained_backbone
from fedafd.learning.safe_options import refuse_options_that_fetch
from fedafd.learning.transformer_backbones import LEARNED_WITHOUT_MASK, ImageBackbone, TextBackbone

__all__ = ["AUTO", "FAMILIES", "check_modality", "make_backbone"]

AUTO = "auto"
FAMILIES = {
    "resnet": ("ResNetConfig", "ResNetModel", Modality.IMAGE),
    "convnextv2": ("ConvNextV2Config", "ConvNextV2Model", Modality.IMAGE),
    "vit": ("ViTConfig", "ViTModel", Modality.IMAGE),
    "bert": ("BertConfig", "BertModel", Modality.TEXT),
    "distilbert": ("DistilBertConfig", "DistilBertModel", Modality.TEXT),
}


def make_backbone(config: EncoderConfig, modality: Modality, *, vocabulary: int, padding: int) -> tuple[nn.Module, int]:
    """The backbone and its channels C. Raises ConfigurationError for what cannot be made, or not of this modality."""
    refuse_options_that_fetch(config)
    make = _automatic if config.architecture == AUTO else _named
    return make(config, modality, vocabulary, padding)


def _named(config: EncoderConfig, modality: Modality, vocabulary: int, padding: int) -> tuple[nn.Module, int]:
    import transformers

    check_modality(config, FAMILIES[config.architecture][2], modality)
    config_name, model_name, _ = FAMILIES[config.architecture]
    model_class: Any = getattr(transformers, model_name)
    if config.pretrained is not None:
        model: Any = pretrained_backbone(config, modality, model_class)
        _check_vocabulary(config, modality, model, vocabulary)
    else:
        options = dict(config.options)
        if modality is Modality.IMAGE and config.architecture == "vit":
            options.setdefault("image_size", config.image_size)
        if modality is Modality.TEXT:
            options.setdefault("vocab_size", vocabulary)
        try:
            model = model_class(getattr(transformers, config_name)(**options))
        except Exception as error:  # families fail on a value in their own ways
            reason = " ".join(str(error).split())
            raise ConfigurationError(f"encoder {config.architecture}, options: {reason}") from None
    if config.pooling == "pooler" and getattr(model, "pooler", None) is None:
        raise ConfigurationError(f"encoder {config.architecture}: pooling: it has no pooler; take mean or cls")
    sizes = model.config
    channels = int(
        sizes.hidden_sizes[-1] if hasattr(sizes, "hidden_sizes") else getattr(sizes, "hidden_size", None) or sizes.dim
    )
    backbone = ImageBackbone(model) if modality is Modality.IMAGE else TextBackbone(model, padding, config.pooling)
    return backbone, channels


def _automatic(config: EncoderConfig, modality: Modality, vocabulary: int, padding: int) -> tuple[nn.Module, int]:
    """Whatever transformers' AutoModel makes of the weights' or the options' `model_type`."""
    if config.pretrained is not None:
        model: Any = any_backbone(config, modality)
        _check_vocabulary(config, modality, model, vocabulary)
        _check_last_position(config, modality, model)
    else:
        model = fresh_backbone(config, modality, vocabulary=vocabulary, padding=padding)
    if config.projection == "own":
        own = DualBackbone(half_of(model, config, modality), modality, padding)
        return own, _channels_seen(config, modality, own, padding)
    backbone = ImageBackbone(model) if modality is Modality.IMAGE else TextBackbone(model, padding, config.pooling)
    return backbone, _channels_seen(config, modality, backbone, padding)


@torch.no_grad()
def _channels_seen(config: EncoderConfig, modality: Modality, backbone: nn.Module, padding: int) -> int:
    """Channels of the positions made of one full sample: families do not tell them, nor their limits, in one way."""
    if modality is Modality.IMAGE:
        sample = torch.zeros(1, 3, config.image_size, config.image_size)
    else:
        sample = torch.full((1, config.max_tokens), 0 if padding else 1)
    training = backbone.training
    try:
        positions_BPC, _ = backbone.float().eval()(sample)
    except ConfigurationError:
        raise
    except Exception as error:  # each family refuses in its own way what it cannot read
        size = "image_size" if modality is Modality.IMAGE else "max_tokens"
        reason = (str(error).splitlines() or [""])[0]
        raise ConfigurationError(
            f"encoder {config.architecture}, {config.pretrained or config.options.get('model_type')}: reads no"
            f" {modality.value} of {size} {getattr(config, size)}, or is no encoder of {modality.value}:"
            f" {type(error).__name__}: {reason}"
        ) from None
    backbone.train(training)
    return int(positions_BPC.shape[-1])


def _check_vocabulary(config: EncoderConfig, modality: Modality, model: Any, vocabulary: int) -> None:
    words: Any = getattr(model.config, "text_config", model.config)
    capacity = words.vocab_size if modality is Modality.TEXT else vocabulary
    if vocabulary > capacity:
        raise ConfigurationError(
            f"weights {config.pretrained!r} know {capacity} tokens, but its tokenizer makes {vocabulary}"
        )


def _check_last_position(config: EncoderConfig, modality: Modality, model: Any) -> None:
    """SigLIP's own feature of a text is that of the last position of a full row, padding or not."""
    words: Any = getattr(model.config, "text_config", model.config)
    if modality is not Modality.TEXT or (config.projection == "new" and config.pooling != "pooler"):
        return
    if words.model_type in LEARNED_WITHOUT_MASK and config.max_tokens != words.max_position_embeddings:
        needed = words.max_position_embeddings
        raise ConfigurationError(
            f"max_tokens: {config.max_tokens}, but {config.pretrained!r} pools texts of {needed} tokens, padding"
            f" included; set max_tokens: {needed}"
        )


def check_modality(config: EncoderConfig, has: Modality, wanted: Modality) -> None:
    """Raise ConfigurationError for an architecture of the other modality."""
    if has is not wanted:
        raise ConfigurationError(
            f"encoder {config.architecture!r} encodes {has.value}, but stands where {wanted.value} is"
        )
