"""Reads and checks configurations: a key or value that is not allowed is named with its path and what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fedafd.domain.config.agent import AgentConfig
from fedafd.domain.config.federation import FederationConfig
from fedafd.domain.config.region import RegionConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.paths import placed
from fedafd.domain.yaml_files import read_yaml

__all__ = [
    "parse_agent_config",
    "parse_config",
    "parse_federation_config",
    "problem_words",
    "read_agent_config",
    "read_federation_config",
    "read_region_config",
]

C = TypeVar("C", bound=BaseModel)
_SHOWN_CHARACTERS = 200
_MOST_PROBLEMS = 20


def parse_config(model: type[C], values: Any, source: str) -> C:
    """`values` checked against `model`. Raises ConfigurationError listing each key that is wrong, with its path."""
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{source}: expected keys and values, found {type(values).__name__}", source=source)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigurationError(f"{source}: {_describe(model, error)}", source=source) from None


def _describe(model: type[BaseModel], error: ValidationError) -> str:
    lines = []
    problems = error.errors(include_url=False)
    for item in problems[:_MOST_PROBLEMS]:
        path = ".".join(str(part)[:_SHOWN_CHARACTERS] for part in item["loc"]) or "(top level)"
        if item["type"] == "extra_forbidden":
            allowed = ", ".join(_allowed_keys(model, item["loc"][:-1]))
            lines.append(f"{path}: unknown key; allowed here: {allowed}")
        elif item["type"] == "model_type":
            allowed = ", ".join(_allowed_keys(model, item["loc"]))
            lines.append(f"{path}: must be a block of keys ({allowed}); found {_shown(item['input'])}")
        else:
            lines.append(f"{path}: {problem_words(item)}")
    if len(problems) > _MOST_PROBLEMS:
        lines.append(f"and {len(problems) - _MOST_PROBLEMS} more")
    return "; ".join(lines)


def problem_words(item: ErrorDetails) -> str:
    """What is wrong with a value, without its path."""
    if item["type"] == "missing":
        return "missing, but needed"
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    return f"{item['msg']}; found {_shown(item['input'])}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _allowed_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        field = model.model_fields.get(str(part))
        annotations = [] if field is None else [field.annotation, *getattr(field.annotation, "__args__", ())]
        nested = [a for a in annotations if isinstance(a, type) and issubclass(a, BaseModel)]
        if not nested:
            return []
        model = nested[0]
    return sorted(model.model_fields)


def _read(model: type[C], path: Path) -> C:
    return parse_config(model, read_yaml(path), str(path))


def read_federation_config(path: Path) -> FederationConfig:
    """Read `federation.yaml`; relative paths in it follow the file.

    Raises ConfigurationError naming the file, the key's path and what is allowed.
    """
    return placed(_read(FederationConfig, path), path.parent)


def read_agent_config(path: Path) -> AgentConfig:
    """Read `agent.yaml`; relative paths in it, and its defaults, follow the file.

    Raises ConfigurationError naming the file, the key's path and what is allowed.
    """
    if not path.exists():
        raise ConfigurationError(
            f"{path}: no such file; `fedafd agent init` writes one, --config or FEDAFD_AGENT_CONFIG names another",
            source=str(path),
        )
    return placed(_read(AgentConfig, path), path.parent)


def read_region_config(path: Path) -> RegionConfig:
    """Read `region.yaml`; paths follow the file. Raises ConfigurationError as read_agent_config."""
    return placed(_read(RegionConfig, path), path.parent)


def parse_federation_config(values: Any, source: str = "federation") -> FederationConfig:
    """Check already decoded values, such as a REST body. Raises ConfigurationError."""
    return parse_config(FederationConfig, values, source)


def parse_agent_config(values: Any, source: str = "agent") -> AgentConfig:
    """Check already decoded values. Raises ConfigurationError."""
    return parse_config(AgentConfig, values, source)
