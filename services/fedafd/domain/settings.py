"""What the settings of all processes have in common: the environment, and a folder of secret files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, NestedSecretsSettingsSource, PydanticBaseSettingsSource

from fedafd.domain.errors import ConfigurationError

__all__ = ["ProcessSettings", "load_process_settings"]

Settings = TypeVar("Settings", bound="ProcessSettings")


class ProcessSettings(BaseSettings):
    """Settings from variables with the class's prefix and, where one is not set, from files in `secrets_dir`.

    A file is named as its setting in small letters, such as `database_url` or `store__secret_key`: what container
    platforms mount as secrets.
    """

    secrets_dir: Path | None = Field(None, description="Folder with one file per secret setting.")

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
        problems = [f"{prefix}{'__'.join(str(p) for p in e['loc']).upper()}: {e['msg']}" for e in error.errors()]
        raise ConfigurationError("; ".join(problems)) from None
    except OSError as error:
        raise ConfigurationError(f"{prefix}SECRETS_DIR: {error.filename}: {error.strerror}") from None
