"""How pretrained weights want texts to be read: prefix and pooling, from a sentence-transformers folder if it is one.

Such a folder names its modules in modules.json. Of these the pooling and the default prompt are read; what stands
behind the pooling (Dense, Normalize) is left out: the encoder's own projection and unit rows stand in its place.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedafd.domain.config import EncoderConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import Modality
from fedafd.learning.pretrained import source_of

__all__ = ["text_reading"]

_POOLING = {"mean": "mean", "cls": "cls"}
_FLAG = "pooling_mode_"
_FLAGS = {"cls_token": "cls", "mean_tokens": "mean"}


def text_reading(config: EncoderConfig, modality: Modality) -> EncoderConfig:
    """The same configuration with the folder's pooling and prefix where it leaves them open.

    Raises ConfigurationError for a pooling that is not known here.
    """
    if modality is not Modality.TEXT or config.pretrained is None:
        return config
    if config.pooling is not None and config.prefix is not None:
        return config
    pooling = config.pooling or (_pooling(config.pretrained) if config.projection == "new" else None)
    prefix = _prompt(config.pretrained) if config.prefix is None else config.prefix
    return config.model_copy(update={"pooling": pooling, "prefix": prefix})


def _pooling(pretrained: str) -> str:
    modules = _content(pretrained, "modules.json")
    for module in modules if isinstance(modules, list) else []:
        if isinstance(module, dict) and str(module.get("type", "")).rpartition(".")[2] == "Pooling":
            return _mode(pretrained, f"{module.get('path') or '1_Pooling'}/config.json")
    return "mean"


def _mode(pretrained: str, name: str) -> str:
    content = _content(pretrained, name)
    values = content if isinstance(content, dict) else {}
    named = values.get("pooling_mode")
    if named is None:
        flags = [key.removeprefix(_FLAG) for key, on in values.items() if key.startswith(_FLAG) and on is True]
        modes = [_FLAGS.get(flag, flag) for flag in flags]
    else:
        modes = [str(mode) for mode in (named if isinstance(named, list) else [named])]
    if len(modes) != 1 or modes[0] not in _POOLING:
        raise ConfigurationError(
            f"weights {pretrained!r}, {name}: pools by {' and '.join(modes) or 'nothing'}, which is not known here; set"
            " `pooling` of the text encoder to mean, cls or pooler"
        )
    return _POOLING[modes[0]]


def _prompt(pretrained: str) -> str:
    """The prompt that sentence-transformers puts before a text of which nothing else is said."""
    content = _content(pretrained, "config_sentence_transformers.json")
    values = content if isinstance(content, dict) else {}
    prompts, name = values.get("prompts"), values.get("default_prompt_name")
    prompt = prompts.get(name) if isinstance(prompts, dict) and isinstance(name, str) else None
    return prompt if isinstance(prompt, str) else ""


def _content(pretrained: str, name: str) -> Any:
    """What a JSON file of the folder or the hub holds; null where there is none, or the hub cannot be asked for it."""
    from transformers.utils.hub import cached_file

    source, revision = source_of(pretrained)
    try:
        path = cached_file(
            source,
            name,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
        return None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigurationError(f"weights {pretrained!r}, {name}: cannot be read: {reason}") from None
