"""Options of a backbone that load nothing from elsewhere: they come from a server or from a folder, too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fedafd.domain.config import EncoderConfig
from fedafd.domain.errors import ConfigurationError

__all__ = ["refuse_options_that_fetch", "refuse_parts_that_fetch"]

_RUNS_CODE = {"auto_map", "custom_pipelines", "quantization_config", "trust_remote_code", "kernel_config"}
_KERNELS = {"attn_implementation", "experts_implementation"}
_NAMES_ALONE = {"id2label", "label2id"}
"""What stands below them is read by nobody as an option."""
_TIMM_NAME, _TIMM_ARGUMENTS = "architecture", "model_args"
_FROM_ELSEWHERE = ("pretrained", "checkpoint", "cache", "path", "file", "dir", "url", "cfg", "source", "hub", "weight")
_MOST_TEXT = 64


def refuse_options_that_fetch(config: EncoderConfig) -> None:
    """Raise ConfigurationError for an option by which transformers would run code from the hub, or fetch a model,
    however deep it stands: whatever holds options may be those of a part of a model."""
    for name, value in _each_option(config.options):
        runs = name in _RUNS_CODE or name.startswith("_") or (name in _KERNELS and value not in (None, "eager", "sdpa"))
        fetches = "backbone" in name and value not in (None, False)
        if runs or fetches:
            raise ConfigurationError(
                f"encoder {config.architecture}, options: {name}: {value!r} may load code from elsewhere; leave it out"
            )
    refuse_parts_that_fetch(config.options, f"encoder {config.architecture}, options")


def refuse_parts_that_fetch(options: Mapping[str, Any], where: str) -> None:
    """Raise ConfigurationError where a model of timm, in any part of another, is named by a hub or a folder, or has
    arguments that lead to one."""
    for name, value in _each_option(options):
        if (name == _TIMM_NAME and not _is_plain_name(value)) or (name == _TIMM_ARGUMENTS and not _is_plain(value)):
            raise ConfigurationError(
                f"{where}: {name}: {str(value)[:200]!r}: only the plain name of a model of timm is taken, and arguments"
                " that say of nothing where it lies"
            )


def _is_plain_name(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.replace("_", "").replace(".", "").isalnum())


def _is_plain(arguments: Any) -> bool:
    """Numbers and short words, none of which says where something lies."""
    if not isinstance(arguments, Mapping):
        return arguments is None
    return all(
        not any(word in str(name).lower() for word in _FROM_ELSEWHERE) and _is_number_or_word(value)
        for name, value in arguments.items()
    )


def _is_number_or_word(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_number_or_word, value))
    if isinstance(value, str):
        return len(value) <= _MOST_TEXT and (not value or _is_plain_name(value))
    return value is None or isinstance(value, bool | int | float)


def _each_option(options: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of each option, and of those that stand below it."""
    if isinstance(options, Mapping):
        for name, value in options.items():
            yield str(name), value
            if name not in _NAMES_ALONE:
                yield from _each_option(value)
    elif isinstance(options, list | tuple):
        for value in options:
            yield from _each_option(value)
