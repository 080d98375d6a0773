"""Options of a backbone that load nothing from elsewhere: they come from a server or from a folder, too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fedafd.domain.config import EncoderConfig
from fedafd.domain.errors import ConfigurationError

__all__ = ["refuse_options_that_fetch"]

_RUNS_CODE = {"auto_map", "custom_pipelines", "quantization_config", "trust_remote_code", "kernel_config"}
_KERNELS = {"attn_implementation", "experts_implementation"}


def refuse_options_that_fetch(config: EncoderConfig) -> None:
    """Raise ConfigurationError for an option by which transformers would run code from the hub, or fetch a model."""
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
