"""Pretrained backbones by hub id or local folder: weights as safetensors only, with their tokenizer.

Nothing is fetched that is not needed, and no pickle is read: weights that exist as pickles only are refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # it is in no __all__
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import nn

from fedafd.domain.config import EncoderConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.hub_names import HubName, hub_name
from fedafd.domain.kinds import Modality
from fedafd.learning.quiet_loading import quietly

__all__ = [
    "check_folder",
    "check_whole",
    "is_folder",
    "missing_weights",
    "pretrained_backbone",
    "pretrained_tokenizer",
    "read_or_refused",
    "refuse_adapter",
    "refuse_quantised",
    "refuse_unreadable",
    "source_of",
]

_ADAPTER = "adapter_config.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pth")
_UNUSED = {"convnextv2": ("pooler.", "layernorm.")}
"""Layers behind the last hidden state, which we do not read: a checkpoint without them is complete."""

_FILES = {
    Modality.IMAGE: "config.json, model.safetensors and preprocessor_config.json",
    Modality.TEXT: "config.json, model.safetensors, tokenizer.json and tokenizer_config.json",
}


def source_of(pretrained: str) -> HubName:
    """What `from_pretrained` is asked for: an id and its revision, or a folder of this machine, which has none."""
    named = None if Path(pretrained).exists() else hub_name(pretrained)
    return named or HubName(pretrained, None)


@quietly()
def pretrained_backbone(config: EncoderConfig, modality: Modality, model_class: Any) -> nn.Module:
    """The weights named by `config.pretrained`. Raises ConfigurationError for what is missing or does not fit."""
    assert config.pretrained is not None
    refuse_unreadable(config.pretrained)
    name, revision = source_of(config.pretrained)
    with read_or_refused(config, modality):
        refuse_adapter(config.pretrained)
        _check_kind(config, model_class)
        # Hubs store half precision, which transformers would keep; training adds steps too small for it to hold.
        model, loading = model_class.from_pretrained(
            name,
            revision=revision or "main",
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused by `check_whole`, which names them
            dtype=torch.float32,
        )
    unused = () if config.pooling == "pooler" else _UNUSED.get(config.architecture, ("pooler.",))
    check_whole(config, config.architecture, model, loading, is_read=lambda name: not name.startswith(unused))
    _check_sizes(config, modality, model.config)
    backbone: nn.Module = model
    return backbone


@quietly()
def pretrained_tokenizer(config: EncoderConfig) -> Tokenizer:
    """The tokenizer beside the weights, cutting and padding to `config.max_tokens`. Raises ConfigurationError."""
    import transformers

    assert config.pretrained is not None
    refuse_unreadable(config.pretrained)
    name, revision = source_of(config.pretrained)
    with read_or_refused(config, Modality.TEXT):
        loaded: Any = transformers.AutoTokenizer.from_pretrained(
            name, revision=revision or "main", trust_remote_code=False
        )
    backend = getattr(loaded, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ConfigurationError(
            f"tokenizer of {config.pretrained!r}: a {type(loaded).__name__} has no fast form; put a tokenizer.json into"
            " the folder, or take a model that has one"
        )
    if loaded.pad_token_id is None:
        raise ConfigurationError(
            f"tokenizer of {config.pretrained!r}: it has no padding token; name one as `pad_token` in its"
            " tokenizer_config.json, a token that its vocabulary holds and texts do not"
        )
    # Without its files, transformers makes a tokenizer that reads every word as an unknown one.
    if backend.get_vocab().keys() <= set(loaded.all_special_tokens):
        raise ConfigurationError(
            f"tokenizer of {config.pretrained!r}: it knows no word, as if its files were missing; put the model's"
            " tokenizer.json and tokenizer_config.json beside its weights"
        )
    # A copy: what cuts and pads is part of the tokenizer's own file from here on.
    tokenizer = Tokenizer.from_str(backend.to_str())
    tokenizer.enable_truncation(config.max_tokens)
    tokenizer.enable_padding(length=config.max_tokens, pad_id=loaded.pad_token_id, pad_token=loaded.pad_token)
    return tokenizer


def check_whole(
    config: EncoderConfig, kind: str, model: nn.Module, loading: Mapping[str, Any], *, is_read: Callable[[str], bool]
) -> None:
    """Raise ConfigurationError where weights do not give a backbone of this kind every tensor that it reads.

    `loading` is what transformers says of them.
    """
    named = f"weights {config.pretrained!r}"
    shapes = {name: (list(stored), list(wanted)) for name, stored, wanted in loading["mismatched_keys"]}
    other = sorted(filter(is_read, shapes))
    if other:
        stored, wanted = shapes[other[0]]
        raise ConfigurationError(
            f"{named} are of other sizes than the config.json beside them says: {len(other)} tensors, such as"
            f" {other[0]}, which is {stored} and should be {wanted}; take both files from one model"
        )
    lacking = sorted(filter(is_read, loading["missing_keys"]))
    if lacking:
        raise ConfigurationError(
            f"{named} do not hold a whole {kind}: {len(lacking)} tensors are missing, such as {lacking[0]}"
        )
    broken = [name for name, tensor in model.state_dict().items() if is_read(name) and not tensor.isfinite().all()]
    if broken:
        raise ConfigurationError(
            f"{named} hold numbers that are not finite: {len(broken)} tensors, such as {broken[0]}; save them again"
            " from a sound copy, in float32 if float16 was too small for them"
        )


def is_folder(pretrained: str) -> bool:
    """Whether it names a folder of this machine; else it can only be a hub's."""
    return Path(pretrained).is_dir()


def refuse_unreadable(pretrained: str) -> None:
    """Raise ConfigurationError for what is no folder of safetensors: pickles only, an adapter alone, a single file, a
    path where no folder is, and one that this process may not read."""
    try:
        _refuse_unreadable(Path(pretrained), pretrained)
    except OSError as error:
        raise ConfigurationError(
            f"weights {pretrained!r}: {error.filename} cannot be read: {error.strerror}; the folder and its files must"
            " be readable for the user that this process runs as"
        ) from None


def _refuse_unreadable(folder: Path, pretrained: str) -> None:
    if folder.is_file():
        raise ConfigurationError(
            f"weights {pretrained!r}: is a file; name the folder that holds it and its config.json"
        )
    if not folder.is_dir():
        _refuse_lacking_folder(pretrained)
        return
    if (folder / _ADAPTER).exists() and not (folder / "config.json").exists():
        raise _adapter_alone(pretrained)
    weights = list(folder.glob("*.safetensors"))
    pickles = [name for name in _PICKLES if (folder / name).exists()]
    if pickles and not weights:
        raise ConfigurationError(
            f"weights {pretrained!r}: {pickles[0]} is a pickle, which can run any code when it is read; only"
            " safetensors are read here. Convert it on a machine apart: from_pretrained(...), then save_pretrained(...)"
        )
    # safetensors calls a file that may not be read one that is not there.
    for path in filter(Path.is_file, (folder / "config.json", *weights)):
        path.open("rb").close()


def check_folder(config: EncoderConfig, modality: Modality) -> None:
    """Raise ConfigurationError for a folder whose weights are not there, cut off or not to be read, without reading
    all of them. Of a hub's nothing is known here."""
    assert config.pretrained is not None
    refuse_unreadable(config.pretrained)
    if not is_folder(config.pretrained):
        return
    folder = Path(config.pretrained)
    with read_or_refused(config, modality):
        json.loads((folder / "config.json").read_bytes())
        index = folder / "model.safetensors.index.json"
        whole = (folder / "model.safetensors").exists() or not index.exists()
        names = {"model.safetensors"} if whole else {*json.loads(index.read_bytes())["weight_map"].values()}
        for name in sorted(names):
            with safe_open(folder / name, framework="pt"):  # its header says how long it is
                pass


def refuse_adapter(pretrained: str) -> None:
    """Raise ConfigurationError for an adapter on a hub: transformers would fetch the base that it names, which nobody
    here allowed, at a revision that nobody pinned. Raises OSError where the hub does not answer."""
    from transformers.utils.hub import cached_file

    if Path(pretrained).exists():
        return
    name, revision = source_of(pretrained)
    silent = {f"_raise_exceptions_for_{fault}": False for fault in ("missing_entries", "connection_errors")}
    if cached_file(name, _ADAPTER, revision=revision, **silent) is not None:
        raise _adapter_alone(pretrained)


def _adapter_alone(pretrained: str) -> ConfigurationError:
    return ConfigurationError(
        f"weights {pretrained!r}: is an adapter of peft without its base; merge them first: merge_and_unload(),"
        " then save_pretrained(...)"
    )


def _refuse_lacking_folder(pretrained: str) -> None:
    """Raise ConfigurationError for what can only be a path, as no hub has such a name."""
    try:
        validate_repo_id(source_of(pretrained).id)
    except HFValidationError:
        raise ConfigurationError(
            f"weights {pretrained!r}: there is no such folder on this machine"
            f" ({_nearest(Path(pretrained))}), and a hub id has the form `name` or `organisation/name`, and"
            " `@` and a revision behind it, if one is pinned"
        ) from None


def _nearest(folder: Path) -> str:
    """How far a path leads."""
    there = next(parent for parent in folder.absolute().parents if parent.is_dir())
    return f"{there} is the last folder of its path that is there"


def refuse_quantised(config: EncoderConfig, quantisation: Any) -> None:
    """Raise ConfigurationError for weights that a quantisation, if any, has made unfit for training."""
    if not quantisation:
        return
    method = quantisation.get("quant_method") if isinstance(quantisation, Mapping) else None
    raise ConfigurationError(
        f"weights {config.pretrained!r} are quantised ({method or 'by an unknown method'}), and cannot be trained; take"
        " those that the model had before, in float32, float16 or bfloat16"
    )


@contextmanager
def read_or_refused(config: EncoderConfig, modality: Modality) -> Iterator[None]:
    """Within, whatever a library raises of a folder or a hub is a ConfigurationError that names it."""
    try:
        yield
    except ConfigurationError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise missing_weights(config, modality, error) from None
    except SafetensorError as error:
        raise ConfigurationError(
            f"weights {config.pretrained!r}: a file of safetensors is damaged or was not fetched whole ({error}); fetch"
            " it again, from a repository of Git LFS by `git lfs pull`"
        ) from None
    except ImportError as error:
        raise ConfigurationError(_lacking_library(config, error)) from None
    except Exception as error:  # a damaged file ends each library in its own way
        raise ConfigurationError(
            f"weights {config.pretrained!r}: config.json, or a file beside it, holds what its model does not take:"
            f" {type(error).__name__}: {' '.join(str(error).split())}"
        ) from None


def _lacking_library(config: EncoderConfig, error: ImportError) -> str:
    reason = " ".join(str(error).split())
    if "timm" in reason:
        return f"encoder auto, {config.pretrained}: models of timm need the extra `vision`: pip install fedafd[vision]"
    return f"weights {config.pretrained!r} need a library that is not installed: {reason}"


def _check_kind(config: EncoderConfig, model_class: Any) -> None:
    name, revision = source_of(config.pretrained or "")
    content, _ = model_class.config_class.get_config_dict(name, revision=revision)
    kind, wanted = content.get("model_type"), model_class.config_class.model_type
    refuse_quantised(config, content.get("quantization_config"))
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
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(" :")
    name, local = config.pretrained or "", Path(config.pretrained or "")
    if local.is_dir():
        return ConfigurationError(f"weights {name!r}: the folder needs {_FILES[modality]}: {reason}")
    from huggingface_hub.constants import HF_HUB_CACHE

    return ConfigurationError(
        f"weights {name!r} for encoder {config.architecture} are neither a folder here nor in the hub cache"
        f" {HF_HUB_CACHE}, and the hub cannot be reached or does not hold them. Put {_FILES[modality]} into a folder on"
        f" this machine and name its path in place of the id, or copy the cache of a machine that has them"
        f" (HF_HUB_CACHE names it): {reason}"
    )
