"""What the settings of all processes have in common: the environment, and a folder of secret files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NestedSecretsSettingsSource, PydanticBaseSettingsSource, SettingsError

from fedafd.domain.addresses import checked_url_port
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.secrets import plain_secret

__all__ = ["ProcessSettings", "load_process_settings"]

Settings = TypeVar("Settings", bound=BaseSettings)


class ProcessSettings(BaseSettings):
    """Settings from variables with the class's prefix and, where one is not set, from files in `secrets_dir`.

    A file is named as its setting in small letters, such as `database_url` or `store__secret_key`: what container
    platforms mount as secrets.
    """

    secrets_dir: Path | None = Field(
        None, description="Folder with one file for each secret setting, such as database_url."
    )

    @model_validator(mode="before")
    @classmethod
    def _read_plainly(cls, values: Any) -> Any:
        """Take byte order marks and line ends off, and look at the ports of URLs, before a library fails on them."""
        if not isinstance(values, Mapping):
            return values
        plain = {name: plain_secret(value) if isinstance(value, str) else value for name, value in values.items()}
        for name, value in plain.items():
            if name.endswith("_url") and isinstance(value, str):
                try:
                    checked_url_port(value)
                except ValueError as error:
                    raise ValueError(f"{name.upper()}: {error}") from None
        return plain

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Variables win over files. Raises ConfigurationError where the folder cannot be read."""
        variable = f"{settings_cls.model_config['env_prefix']}SECRETS_DIR"
        folder = os.environ.get(variable)
        if not folder:
            return init_settings, env_settings, dotenv_settings
        try:
            files = NestedSecretsSettingsSource(
                file_secret_settings, secrets_dir=folder, secrets_dir_missing="error", secrets_prefix=""
            )
        except (ValueError, OSError) as error:
            raise ConfigurationError(f"{variable}: {error}") from None
        return init_settings, env_settings, dotenv_settings, files


def load_process_settings(kind: type[Settings]) -> Settings:
    """Settings of `kind`. Raises ConfigurationError naming each variable that is missing or wrong."""
    prefix = str(kind.model_config["env_prefix"])
    try:
        return kind()
    except ValidationError as error:
        raise ConfigurationError("; ".join(_problems(kind, prefix, error.errors()))) from None
    except SettingsError as error:
        # A block that was given as one text.
        match = re.search(r'field "(\w+)"', str(error))
        raise ConfigurationError(_block(kind, prefix, match[1] if match else "")) from None
    except OSError as error:
        raise ConfigurationError(f"{prefix}SECRETS_DIR: {error.filename}: {error.strerror}") from None


def _problems(kind: type[BaseModel], prefix: str, errors: Iterable[ErrorDetails]) -> list[str]:
    """Each variable with what is wrong with it; of a value that may be of several types, what each asks for."""
    problems: dict[str, list[str]] = {}
    for error in errors:
        path = _fields(kind, error["loc"])
        if error["type"] == "extra_forbidden" and len(error["loc"]) == len(path) + 1 and path:
            path.append(str(error["loc"][-1]))
        name = prefix + "__".join(path).upper()
        if error["type"] == "missing":
            below = _block_of(kind, path)
            needed = [name] if below is None else [f"{name}__{field.upper()}" for field in _needed(below)]
            problems |= {variable: ["must be set"] for variable in needed}
        elif error["type"] == "model_type":
            problems[name] = [_block(kind, prefix, *path).partition(": ")[2]]
        else:
            words = str(error["ctx"]["error"]) if error["type"] == "value_error" else error["msg"]
            problems.setdefault(name, []).append(words)
    return [
        f"{name}: {' or '.join(words)}" if name != prefix else prefix + words[0] for name, words in problems.items()
    ]


def _fields(kind: type[BaseModel], location: Iterable[int | str]) -> list[str]:
    """The settings in an error's place; the rest of it names types."""
    path: list[str] = []
    at: type[BaseModel] | None = kind
    for part in location:
        if at is None or str(part) not in at.model_fields:
            break
        path.append(str(part))
        at = _block_of(kind, path)
    return path


def _block_of(kind: type[BaseModel], path: Iterable[str]) -> type[BaseModel] | None:
    """The settings below a setting, None where it is a single value."""
    at: type[BaseModel] | None = kind
    for name in path:
        if at is None or name not in at.model_fields:
            return None
        annotation = at.model_fields[name].annotation
        parts = (annotation, *getattr(annotation, "__args__", ()))
        at = next((part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)), None)
    return at


def _needed(block: type[BaseModel]) -> list[str]:
    return [name for name, field in block.model_fields.items() if field.is_required()]


def _block(kind: type[BaseModel], prefix: str, *path: str) -> str:
    """What to set in place of a block that was given as one text."""
    name, below = prefix + "__".join(path).upper(), _block_of(kind, path)
    names = [] if below is None else [*_needed(below), *below.model_fields]
    return f"{name}: is no variable of its own; set {name}__{names[0].upper()} and so on" if names else f"{name}: wrong"
