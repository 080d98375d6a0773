"""Pretrained backbones by hub id or local folder: weights as safetensors only, with their tokenizer.

Nothing is fetched that is not needed, and no pickle is read: weights that exist as pickles only are refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn

from fedafd.domain.config import EncoderConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import Modality
from fedafd.learning.quiet_loading import quietly

__all__ = [
    "check_whole",
    "missing_weights",
    "pretrained_backbone",
    "pretrained_tokenizer",
    "refuse_pickles",
]

_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pth")
_UNUSED = {"convnextv2": ("pooler.", "layernorm.")}
"""Layers behind the last hidden state, which we do not read: a checkpoint without them is complete."""

_FILES = {
    Modality.IMAGE: "config.json, model.safetensors and preprocessor_config.json",
    Modality.TEXT: "config.json, model.safetensors, tokenizer.json and tokenizer_config.json",
}


@quietly()
def pretrained_backbone(config: EncoderConfig, modality: Modality, model_class: Any) -> nn.Module:
    """The weights named by `config.pretrained`. Raises ConfigurationError for what is missing or does not fit."""
    assert config.pretrained is not None
    refuse_pickles(config.pretrained)
    try:
        _check_kind(config, model_class)
        # Hubs store half precision, which transformers would keep; training adds steps too small for it to hold.
        model, loading = model_class.from_pretrained(
            config.pretrained, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise missing_weights(config, modality, error) from None
    unused = () if config.pooling == "pooler" else _UNUSED.get(config.architecture, ("pooler.",))
    check_whole(config, config.architecture, (name for name in loading["missing_keys"] if not name.startswith(unused)))
    _check_sizes(config, modality, model.config)
    backbone: nn.Module = model
    return backbone


@quietly()
def pretrained_tokenizer(config: EncoderConfig) -> Tokenizer:
    """The tokenizer beside the weights, cutting and padding to `config.max_tokens`. Raises ConfigurationError."""
    import transformers

    assert config.pretrained is not None
    try:
        loaded: Any = transformers.AutoTokenizer.from_pretrained(config.pretrained, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise missing_weights(config, Modality.TEXT, error) from None
    backend = getattr(loaded, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer) or loaded.pad_token_id is None:
        raise ConfigurationError(
            f"tokenizer of {config.pretrained!r}: it has no fast form (tokenizer.json) or no padding"
        )
    # A copy: what cuts and pads is part of the tokenizer's own file from here on.
    tokenizer = Tokenizer.from_str(backend.to_str())
    tokenizer.enable_truncation(config.max_tokens)
    tokenizer.enable_padding(length=config.max_tokens, pad_id=loaded.pad_token_id, pad_token=loaded.pad_token)
    return tokenizer


def check_whole(config: EncoderConfig, kind: str, lacking: Iterable[str]) -> None:
    """Raise ConfigurationError where the weights lack tensors that a backbone of this kind reads."""
    names = sorted(lacking)
    if names:
        raise ConfigurationError(
            f"weights {config.pretrained!r} do not hold a whole {kind}: {len(names)} tensors are missing, such as"
            f" {names[0]}"
        )


def refuse_pickles(pretrained: str) -> None:
    """Raise ConfigurationError for a folder whose weights are pickles only."""
    folder = Path(pretrained)
    if not folder.is_dir() or list(folder.glob("*.safetensors")):
        return
    pickles = [name for name in _PICKLES if (folder / name).exists()]
    if pickles:
        raise ConfigurationError(
            f"weights {pretrained!r}: {pickles[0]} is a pickle, which can run any code when it is read; only"
            " safetensors are read here. Convert it on a machine apart: from_pretrained(...), then save_pretrained(...)"
        )


def _check_kind(config: EncoderConfig, model_class: Any) -> None:
    content, _ = model_class.config_class.get_config_dict(config.pretrained)
    kind, wanted = content.get("model_type"), model_class.config_class.model_type
    if kind is not None and kind != wanted:
        raise ConfigurationError(
            f"weights {config.pretrained!r} are of a {kind}, but the encoder's architecture is {config.architecture}"
        )


def _check_sizes(config: EncoderConfig, modality: Modality, sizes: Any) -> None:
    limit = getattr(sizes, "max_position_embeddings", None)
    if modality is Modality.TEXT and limit is not None and config.max_tokens > limit:
        raise ConfigurationError(f"max_tokens: {config.max_tokens}, but {config.pretrained!r} reads at most {limit}")
    side = getattr(sizes, "image_size", None)
    if config.architecture == "vit" and side != config.image_size:
        raise ConfigurationError(f"image_size: {config.image_size}, but {config.pretrained!r} needs {side}")


def missing_weights(config: EncoderConfig, modality: Modality, error: Exception) -> ConfigurationError:
    """The error that says where the weights were looked for, what a folder needs, and why they were not read."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    name, local = config.pretrained or "", Path(config.pretrained or "")
    if local.is_dir():
        return ConfigurationError(f"weights {name!r}: the folder needs {_FILES[modality]}: {reason}")
    from huggingface_hub.constants import HF_HUB_CACHE

    return ConfigurationError(
        f"weights {name!r} for encoder {config.architecture} are neither a folder here nor in the hub cache"
        f" {HF_HUB_CACHE}, and the hub cannot be reached or does not hold them. Put {_FILES[modality]} into a folder on"
        f" this machine and set `pretrained` to its path, or copy the cache of a machine that has them"
        f" (HF_HUB_CACHE names it): {reason}"
    )
