"""What the settings of all processes have in common: the environment, and a folder of secret files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NestedSecretsSettingsSource, PydanticBaseSettingsSource

from fedafd.domain.addresses import checked_url_port
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.secrets import plain_secret

__all__ = ["ProcessSettings", "described_problems", "load_process_settings"]

Settings = TypeVar("Settings", bound="ProcessSettings")


class ProcessSettings(BaseSettings):
    """Settings from variables with the class's prefix and, where one is not set, from files in `secrets_dir`.

    A file is named as its setting in small letters, such as `database_url` or `store__secret_key`: what container
    platforms mount as secrets.
    """

    secrets_dir: Path | None = Field(None, description="Folder with one file per secret setting.")

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
    prefix = kind.model_config["env_prefix"]
    try:
        return kind()
    except ValidationError as error:
        raise ConfigurationError(described_problems(prefix, error)) from None
    except OSError as error:
        raise ConfigurationError(f"{prefix}SECRETS_DIR: {error.filename}: {error.strerror}") from None


def described_problems(prefix: str, error: ValidationError) -> str:
    """Each variable that is missing or wrong, and what is allowed."""
    return "; ".join(_problem(prefix, each) for each in error.errors())


def _problem(prefix: str, error: ErrorDetails) -> str:
    words = str(error["ctx"]["error"]) if error["type"] == "value_error" else error["msg"]
    name = "__".join(str(part) for part in error["loc"]).upper()
    return f"{prefix}{name}: {words}" if name else f"{prefix}{words}"
