"""Encoders: a backbone and a projection to D.

Shape legend: B samples, P positions (feature-map cells or tokens), C backbone channels, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedafd.domain.config import EncoderConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import Modality
from fedafd.learning.automatic import any_backbone, fresh_backbone
from fedafd.learning.pretrained import pretrained_backbone

__all__ = ["AUTO", "Encoder", "Features", "build_encoder", "encoder_names"]

GROUP = "fedafd.encoders"
AUTO = "auto"
_TRANSFORMERS = {
    "resnet": ("ResNetConfig", "ResNetModel", Modality.IMAGE),
    "convnextv2": ("ConvNextV2Config", "ConvNextV2Model", Modality.IMAGE),
    "vit": ("ViTConfig", "ViTModel", Modality.IMAGE),
    "bert": ("BertConfig", "BertModel", Modality.TEXT),
    "distilbert": ("DistilBertConfig", "DistilBertModel", Modality.TEXT),
}
_TAKE_WHOLE_MASKS = {"bert", "distilbert"}
_RUNS_CODE = {"auto_map", "custom_pipelines", "quantization_config", "trust_remote_code", "kernel_config"}
_KERNELS = {"attn_implementation", "experts_implementation"}


class Features(NamedTuple):
    """What an encoder makes of a batch: unit rows, and the positions they are the weighted mean of."""

    vector_BD: Tensor
    tokens_BPD: Tensor
    weights_BP: Tensor


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


class _ImageBackbone(nn.Module):
    """A transformers vision model; every position counts the same."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.model(pixels).last_hidden_state
        positions_BPC = _as_positions(hidden, getattr(self.model, "timm_model", None))
        count = positions_BPC.shape[1]
        return positions_BPC, positions_BPC.new_full(positions_BPC.shape[:2], 1.0 / count)


def _as_positions(hidden: Tensor, timm_model: Any) -> Tensor:
    """A map [B, C, H, W] as positions [B, P, C]; some of timm's are [B, H, W, C], and a pooled row is one position."""
    if hidden.dim() == 4 and timm_model is not None and hidden.shape[1] != timm_model.num_features:
        return hidden.flatten(1, 2)
    if hidden.dim() == 4:
        return hidden.flatten(2).transpose(1, 2)
    return hidden if hidden.dim() == 3 else hidden.unsqueeze(1)


class _TextBackbone(nn.Module):
    """A transformers language model. By `pooling` every token that is no padding counts the same (mean), the first one
    alone counts (cls), or the model's own pooler makes one position of them."""

    def __init__(self, model: nn.Module, padding: int, pooling: str | None = None) -> None:
        super().__init__()
        self.model, self.padding, self.pooling = model, padding, pooling or "mean"

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        mask = (ids != self.padding).long()
        if ids.device.type == "cpu" and self.pooling != "pooler":
            # Columns that are padding in every row cost a CPU time; a GPU would have to be waited for to know them.
            # A pooler may read the last one (SigLIP's does).
            used = max(1, int((mask.amax(0) * torch.arange(1, mask.shape[1] + 1)).amax()))
            ids, mask = ids[:, :used], mask[:, :used]
        made = self.model(input_ids=ids, attention_mask=self._attended(mask))
        if self.pooling == "pooler":
            own_BC = getattr(made, "pooler_output", None)
            if own_BC is None:
                raise ConfigurationError(f"pooling: {type(self.model).__name__} has no pooler; take mean or cls")
            return own_BC.unsqueeze(1), own_BC.new_ones(len(own_BC), 1)
        hidden = made.last_hidden_state
        if self.pooling == "cls":
            first_BP = torch.zeros_like(mask, dtype=hidden.dtype)
            first_BP[:, 0] = 1
            return hidden, first_BP
        return hidden, mask.to(hidden.dtype) / mask.sum(1, keepdim=True).clamp(min=1)

    def _attended(self, mask_BP: Tensor) -> Tensor:
        """What transformers is given. It looks into a mask [B, P] whether it masks anything, and a GPU would have to be
        waited for; one of all queries and keys [B, 1, P, P] it takes as it is. Made here of what is added to logits, so
        that no layer has to make that of a mask."""
        sizes: Any = self.model.config
        if mask_BP.device.type == "cpu" or sizes.model_type not in _TAKE_WHOLE_MASKS:
            return mask_BP
        if sizes._attn_implementation != "sdpa":
            return mask_BP
        place = mask_BP.device.type
        dtype = torch.get_autocast_dtype(place) if torch.is_autocast_enabled(place) else torch.float32
        bias_BP = torch.zeros_like(mask_BP, dtype=dtype).masked_fill_(mask_BP == 0, torch.finfo(dtype).min)
        return bias_BP[:, None, None, :].expand(-1, 1, mask_BP.shape[1], -1).contiguous()


class _BiGru(nn.Module):
    """Word embeddings, a bidirectional GRU, and attention over tokens (structured self-attention, arXiv 1703.03130)."""

    def __init__(
        self, vocabulary: int, embedding_size: int = 300, hidden_size: int = 256, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding_size, padding_idx=0)
        self.dropout = nn.Dropout(dropout)
        self.forward_gru = nn.GRU(embedding_size, hidden_size, batch_first=True)
        self.backward_gru = nn.GRU(embedding_size, hidden_size, batch_first=True)
        self.attention = nn.Linear(2 * hidden_size, 1)
        self.channels = 2 * hidden_size

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        # Padding at the end costs a CPU time; a GPU would have to be waited for to know where it starts.
        longest = max(1, int((ids != 0).sum(1).max())) if ids.device.type == "cpu" else ids.shape[1]
        ids = ids[:, :longest]
        embedded = self.dropout(self.embedding(ids))
        # Reversing the valid part of each row stands for packing, which takes twice the time on a CPU.
        place = torch.arange(longest, device=ids.device).expand_as(ids)
        mirrored = (ids != 0).sum(1, keepdim=True) - 1 - place
        mirror = torch.where(mirrored >= 0, mirrored, place).unsqueeze(-1)
        backward, _ = self.backward_gru(embedded.gather(1, mirror.expand_as(embedded)))
        backward = backward.gather(1, mirror.expand_as(backward))
        hidden = torch.cat([self.forward_gru(embedded)[0], backward], dim=-1)
        score = self.attention(hidden).squeeze(-1).masked_fill(ids == 0, float("-inf"))
        score = torch.where((ids != 0).any(1, keepdim=True), score, torch.zeros_like(score))
        return hidden, score.softmax(-1)


def encoder_names() -> list[str]:
    """Names of all architectures: the built-in ones and the entry points of the group `fedafd.encoders`."""
    return sorted({*_TRANSFORMERS, AUTO, "bigru", *(point.name for point in entry_points(group=GROUP))})


def build_encoder(
    config: EncoderConfig, modality: Modality, *, dim: int, vocabulary: int = 0, padding: int = 0
) -> Encoder:
    """An encoder as configured; its fresh weights come from torch's global generator.

    `vocabulary`: number of tokens; `padding`: id of the one that stands for none. A plugin gets neither the padding
    (its ids are padded with 0) nor pretrained weights.

    Raises ConfigurationError for an unknown architecture, one of the other modality, or weights that are not there.
    """
    if config.pretrained is not None and config.architecture not in {*_TRANSFORMERS, AUTO}:
        raise ConfigurationError(
            f"encoder {config.architecture!r} starts from fresh weights; `pretrained` goes with one of"
            f" {', '.join(sorted({*_TRANSFORMERS, AUTO}))}"
        )
    if config.pooling is not None and (modality is Modality.IMAGE or config.architecture not in {*_TRANSFORMERS, AUTO}):
        raise ConfigurationError(f"encoder {config.architecture}: pooling goes with text encoders of transformers")
    if config.architecture == "bigru":
        _check_modality(config, Modality.TEXT, modality)
        options: dict[str, Any] = config.options
        try:
            backbone = _BiGru(vocabulary, **options)
        except TypeError as error:
            raise ConfigurationError(f"encoder bigru, options: {error}") from None
        return Encoder(backbone, backbone.channels, dim)
    if config.architecture == AUTO:
        return _automatic(config, modality, dim, vocabulary, padding)
    if config.architecture in _TRANSFORMERS:
        _check_modality(config, _TRANSFORMERS[config.architecture][2], modality)
        return _from_transformers(config, modality, dim, vocabulary, padding)
    for point in entry_points(group=GROUP):
        if point.name == config.architecture:
            made: Encoder = point.load()(config, dim=dim, vocabulary=vocabulary)
            return made
    raise ConfigurationError(f"encoder {config.architecture!r} is not known; installed: {', '.join(encoder_names())}")


def _from_transformers(config: EncoderConfig, modality: Modality, dim: int, vocabulary: int, padding: int) -> Encoder:
    import transformers

    _refuse_options_that_fetch(config)
    config_name, model_name, _ = _TRANSFORMERS[config.architecture]
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
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"encoder {config.architecture}, options: {error}") from None
    if config.pooling == "pooler" and getattr(model, "pooler", None) is None:
        raise ConfigurationError(f"encoder {config.architecture}: pooling: it has no pooler; take mean or cls")
    sizes = model.config
    channels = int(
        sizes.hidden_sizes[-1] if hasattr(sizes, "hidden_sizes") else getattr(sizes, "hidden_size", None) or sizes.dim
    )
    backbone = _ImageBackbone(model) if modality is Modality.IMAGE else _TextBackbone(model, padding, config.pooling)
    return Encoder(backbone, channels, dim)


def _automatic(config: EncoderConfig, modality: Modality, dim: int, vocabulary: int, padding: int) -> Encoder:
    """Whatever transformers' AutoModel makes of the weights' or the options' `model_type`."""
    _refuse_options_that_fetch(config)
    if config.pretrained is not None:
        model: Any = any_backbone(config, modality)
        _check_vocabulary(config, modality, model, vocabulary)
    else:
        model = fresh_backbone(config, modality, vocabulary=vocabulary, padding=padding)
    backbone = _ImageBackbone(model) if modality is Modality.IMAGE else _TextBackbone(model, padding, config.pooling)
    return Encoder(backbone, _channels_seen(config, modality, backbone, padding), dim)


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
    held = model.config.vocab_size if modality is Modality.TEXT else vocabulary
    if vocabulary > held:
        raise ConfigurationError(
            f"weights {config.pretrained!r} know {held} tokens, but its tokenizer makes {vocabulary}"
        )


def _refuse_options_that_fetch(config: EncoderConfig) -> None:
    """transformers runs code from the hub where an option names it: options come from a server or a folder too."""
    for name, value in _each_option(config.options):
        runs = name in _RUNS_CODE or name.startswith("_") or (name in _KERNELS and value not in (None, "eager", "sdpa"))
        fetches = "backbone" in name and value not in (None, False)
        if runs or fetches:
            raise ConfigurationError(
                f"encoder {config.architecture}, options: {name}: {value!r} may load code from elsewhere; leave it out"
            )


def _each_option(options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Name and value of each option; those of a part of a model, such as `vision_config`, too."""
    for name, value in options.items():
        yield name, value
        if isinstance(value, Mapping) and name.endswith("_config"):
            yield from _each_option(value)


def _check_modality(config: EncoderConfig, has: Modality, wanted: Modality) -> None:
    if has is not wanted:
        raise ConfigurationError(
            f"encoder {config.architecture!r} encodes {has.value}, but stands where {wanted.value} is"
        )
