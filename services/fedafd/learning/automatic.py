"""The backbone that transformers' AutoModel makes of a `model_type`: any family, pretrained or from options.

timm's models come through transformers' own wrapper, where timm is installed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from fedafd.domain.config import EncoderConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import Modality
from fedafd.learning.pretrained import (
    check_whole,
    read_or_refused,
    refuse_adapter,
    refuse_quantised,
    refuse_unreadable,
    source_of,
)
from fedafd.learning.quiet_loading import quietly
from fedafd.learning.safe_options import refuse_parts_that_fetch

__all__ = ["any_backbone", "fresh_backbone", "plain_options", "self_options"]

_NOT_OPTIONS = {"transformers_version", "architectures", "auto_map", "dtype", "torch_dtype", "model_type"}
_TIMM = "timm_wrapper"
_NUMBERS = ("img_size", "in_chans", "num_classes")
_PARTS = {Modality.IMAGE: "vision_config", Modality.TEXT: "text_config"}


@quietly()
def any_backbone(config: EncoderConfig, modality: Modality) -> Any:
    """The weights named by `config.pretrained`, in float32; of a dual encoder the half of this modality, or all of it
    where its own projection is asked for.

    Raises ConfigurationError for what is missing or does not fit.
    """
    import transformers

    assert config.pretrained is not None
    refuse_unreadable(config.pretrained)
    name, revision = source_of(config.pretrained)
    with read_or_refused(config, modality):
        refuse_adapter(config.pretrained)
        sizes: Any = transformers.AutoConfig.from_pretrained(name, revision=revision or "main", trust_remote_code=False)
        refuse_quantised(config, getattr(sizes, "quantization_config", None))
        refuse_parts_that_fetch(sizes.to_dict(), f"weights {config.pretrained!r}")
        if config.projection == "new":
            sizes = getattr(sizes, _PARTS[modality], None) or sizes
        arguments = _timm_arguments(
            sizes.model_type, getattr(sizes, "architecture", ""), getattr(sizes, "model_args", None)
        )
        if sizes.model_type == _TIMM:
            sizes.model_args = arguments
        model_class = _text_half_class(sizes) or transformers.AutoModel
        model, loading = model_class.from_pretrained(
            name,
            revision=revision or "main",
            config=sizes,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused by `check_whole`, which names them
            dtype=torch.float32,
            trust_remote_code=False,
        )
    reads_pooler = config.pooling == "pooler" or config.projection == "own"
    check_whole(config, sizes.model_type, model, loading, is_read=lambda name: reads_pooler or "pooler." not in name)
    return model


@quietly()
def fresh_backbone(config: EncoderConfig, modality: Modality, *, vocabulary: int, padding: int) -> Any:
    """Fresh weights of the family that the option `model_type` names. Raises ConfigurationError."""
    import transformers

    options: dict[str, Any] = dict(config.options)
    kind = options.pop("model_type", None)
    if not isinstance(kind, str):
        raise ConfigurationError(
            "encoder auto, options: `model_type` is missing; without `pretrained` it names the family,"
            " such as roberta or swin"
        )
    if kind == _TIMM:
        options["model_args"] = _timm_arguments(kind, str(options.get("architecture", "")), options.get("model_args"))
    if modality is Modality.TEXT:
        words = options if config.projection == "new" else dict(options.get("text_config") or {})
        words.setdefault("vocab_size", vocabulary)
        words.setdefault("pad_token_id", padding)
        if config.projection == "own":
            options["text_config"] = words
    try:
        sizes = transformers.AutoConfig.for_model(kind, **options)
        auto: Any = transformers.AutoModel
        text_half = _text_half_class(sizes)
        return text_half(sizes) if text_half else auto.from_config(sizes, trust_remote_code=False)
    except ImportError:
        raise _lacks_timm(kind) from None
    except Exception as error:  # any value may stand in a folder, and families fail on each in their own way
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"encoder auto, options: {type(error).__name__}: {reason}") from None


def _lacks_timm(named: str) -> ConfigurationError:
    return ConfigurationError(
        f"encoder auto, {named}: models of timm need the extra `vision`: pip install fedafd[vision]"
    )


def _text_half_class(sizes: Any) -> Any:
    """The text half of SigLIP, which AutoModel does not find by its configuration; null for all else."""
    import transformers

    name = {"siglip_text_model": "SiglipTextModel", "siglip2_text_model": "Siglip2TextModel"}.get(sizes.model_type)
    return getattr(transformers, name) if name else None


def plain_options(model_config: Any) -> dict[str, Any]:
    """What a transformers configuration says otherwise than its defaults, as JSON."""
    options = {
        key: value for key, value in model_config.to_diff_dict().items() if key not in _NOT_OPTIONS and key[0] != "_"
    }
    kept: dict[str, Any] = json.loads(json.dumps(options))
    return kept


def self_options(model_config: Any) -> dict[str, Any]:
    """Options that make the same backbone with nothing pretrained at hand."""
    kind = model_config.model_type
    if kind == _TIMM:
        return {"model_type": kind, "architecture": model_config.architecture, "model_args": model_config.model_args}
    # Labels are those of a head that is not read, and there may be thousands.
    options = plain_options(model_config)
    return {"model_type": kind} | {k: v for k, v in options.items() if k not in ("id2label", "label2id")}


def _timm_arguments(kind: str, architecture: str, arguments: Any) -> dict[str, Any]:
    """Arguments of a timm model that change its backbone. Raises ConfigurationError for all but harmless ones.

    timm's names may point to a hub or a folder, and its arguments to a pickle.
    """
    if kind != _TIMM:
        return {}
    given = dict(arguments) if isinstance(arguments, Mapping) else {}
    harmless = isinstance(given.get("global_pool", ""), str) and all(_are_numbers(given.get(n, 0)) for n in _NUMBERS)
    unknown = given.keys() - {*_NUMBERS, "global_pool"}
    if not architecture.replace("_", "").replace(".", "").isalnum() or unknown or not harmless:
        raise ConfigurationError(
            f"encoder auto: timm architecture {architecture!r}, model_args {given}: only the plain name of a model of"
            f" timm is taken, with the arguments {', '.join(_NUMBERS)} and global_pool"
        )
    return {name: value for name, value in given.items() if name in ("img_size", "global_pool")}


def _are_numbers(value: Any) -> bool:
    values = value if isinstance(value, list | tuple) else [value]
    return len(values) <= 2 and all(isinstance(v, int) and 0 <= v <= 16_384 for v in values)
