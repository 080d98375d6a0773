"""Settings of a region's process, from FEDAFD_REGION_*; `region.yaml` says what it stands for."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from fedafd.domain.addresses import ListenAddress
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.paths import OwnPath
from fedafd.domain.secrets import plain_secret, read_secret_file
from fedafd.domain.settings import ProcessSettings, load_process_settings
from fedafd.storage import StoreSettings

__all__ = ["RegionSettings", "load_settings"]

_TOKEN = "FEDAFD_REGION_ENROLMENT_TOKEN"  # noqa: S105 - the name of a variable


class RegionSettings(ProcessSettings):
    """What a region's process needs beside `region.yaml`: its own aggregator's database and store."""

    model_config = SettingsConfigDict(env_prefix="FEDAFD_REGION_", env_nested_delimiter="__", extra="forbid")

    database_url: SecretStr = Field(description="Database of the region's own aggregator.")
    store: StoreSettings = Field(description="Object store of the region's own aggregator: STORE__URL and so on.")
    enrolment_token: SecretStr | None = Field(
        None, description="One-time token of the invitation; only the first start needs it."
    )
    enrolment_token_file: OwnPath | None = Field(None, description="A file that holds the token.")
    cache_limit_bytes: int = Field(
        4 * 2**30, ge=0, description="Most space for downloads that are kept beside those in use."
    )
    poll_seconds: float = Field(
        30.0,
        gt=0,
        le=60,
        description="How long the federation's aggregator may wait with its answer to a request for a task.",
    )
    look_seconds: float = Field(
        1.0, gt=0, le=60, description="How often the process looks how far the region's own round is."
    )
    metrics_listen: ListenAddress | None = Field(
        None, description="host:port of /metrics, which answers once the region is enrolled; unset: no metrics."
    )
    log_level: str = Field("INFO", description="Least level that is logged: DEBUG, INFO, WARNING or ERROR.")

    def token(self) -> str | None:
        """The enrolment token from wherever it was given. Raises ConfigurationError for an unreadable file."""
        if self.enrolment_token is not None:
            return plain_secret(self.enrolment_token.get_secret_value())
        path: Path | None = self.enrolment_token_file
        return None if path is None else read_secret_file(path, f"{_TOKEN}_FILE")


def load_settings() -> RegionSettings:
    """Settings from the environment. Raises ConfigurationError naming each variable that is missing or wrong."""
    settings = load_process_settings(RegionSettings)
    if settings.enrolment_token is not None and settings.enrolment_token_file is not None:
        raise ConfigurationError(f"set {_TOKEN} or {_TOKEN}_FILE, not both")
    os.environ.pop(_TOKEN, None)  # a secret in the environment is inherited by every child process
    return settings
