"""`up.yaml` and the environment: the settings of the processes that `fedafd up` starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedafd.domain.errors import ConfigurationError
from fedafd.domain.yaml_files import read_yaml

__all__ = ["BLOCKS", "is_set", "process_settings", "read_up_file"]

BLOCKS = {
    "control_plane": "FEDAFD_CONTROL_PLANE_",
    "aggregator": "FEDAFD_AGGREGATOR_",
    "distiller": "FEDAFD_DISTILLER_",
    "queries": "FEDAFD_QUERIES_",
}
"""A block of the file, and the prefix of its settings as environment variables."""


def read_up_file(path: Path) -> dict[str, str]:
    """The settings of a file as environment variables. Raises ConfigurationError naming the key."""
    values = read_yaml(path)
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{path}: expected the blocks {', '.join(BLOCKS)}")
    variables: dict[str, str] = {}
    for name, block in values.items():
        if name not in BLOCKS:
            raise ConfigurationError(f"{path}: {name}: unknown key; the blocks are {', '.join(BLOCKS)}")
        if not isinstance(block, Mapping):
            raise ConfigurationError(f"{path}: {name}: expected settings, such as `log_level: DEBUG`")
        known = _settings_of(name)
        for key, value in block.items():
            if key not in known:
                raise ConfigurationError(f"{path}: {name}.{key}: unknown key; expected one of {', '.join(known)}")
            variables[f"{BLOCKS[name]}{key.upper()}"] = _as_text(value)
    return variables


def process_settings(file: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """What was set for the processes: the environment wins over the file."""
    given = {name: value for name, value in environment.items() if name.startswith(tuple(BLOCKS.values()))}
    # A block in the environment (STORE__URL) replaces the file's whole block.
    blocks = {name.split("__")[0] for name in given if "__" in name}
    return {name: value for name, value in file.items() if name not in blocks} | given


def is_set(settings: Mapping[str, str], name: str) -> bool:
    """Whether a setting or a part of it is given, for whichever process."""
    return any(key.removeprefix(prefix).split("__")[0] == name for key in settings for prefix in BLOCKS.values())


def _settings_of(block: str) -> list[str]:
    if block == "control_plane":
        from fedafd.control_plane.settings import ControlPlaneSettings as Settings
    elif block == "aggregator":
        from fedafd.aggregator.settings import AggregatorSettings as Settings  # type: ignore[assignment]
    elif block == "queries":
        from fedafd.distiller.queries.settings import QueriesSettings as Settings  # type: ignore[assignment]
    else:
        from fedafd.distiller.settings import DistillerSettings as Settings  # type: ignore[assignment]
    return sorted(Settings.model_fields)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
