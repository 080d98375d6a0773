"""Settings of the agent process: `agent.yaml` describes the site, the environment (FEDAFD_AGENT_*) this process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from fedafd.domain.config import TlsConfig
from fedafd.domain.errors import ConfigurationError

__all__ = ["AgentSettings", "load_settings"]


class AgentSettings(BaseSettings):
    """What may differ between two starts of the same site's agent."""

    model_config = SettingsConfigDict(env_prefix="FEDAFD_AGENT_", env_nested_delimiter="__", extra="forbid")

    config: Path = Field(Path("agent.yaml"), description="The site's agent.yaml.")
    enrolment_token: SecretStr | None = Field(
        default=None, description="One-time token of the invitation; first start only."
    )
    enrolment_token_file: Path | None = Field(default=None, description="A file that holds the token.")
    aggregator: str | None = Field(default=None, description="host:port; wins over agent.yaml.")
    tls: TlsConfig | None = Field(default=None, description="TLS__AUTHORITIES and so on; wins over agent.yaml.")
    state_dir: Path | None = Field(default=None, description="Wins over agent.yaml.")
    metrics_port: int | None = Field(default=None, ge=0, le=65535, description="Wins over agent.yaml.")
    cache_limit_bytes: int = Field(default=4 * 2**30, ge=0, description="Downloads kept beside those in use.")
    poll_seconds: float = Field(
        default=30.0, gt=0, le=60, description="How long the server may hold a request for a task."
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"

    def token(self) -> str | None:
        """The enrolment token from wherever it was given. Raises ConfigurationError for an unreadable file."""
        if self.enrolment_token is not None:
            return self.enrolment_token.get_secret_value().strip()
        if self.enrolment_token_file is None:
            return None
        try:
            return self.enrolment_token_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigurationError(
                f"FEDAFD_AGENT_ENROLMENT_TOKEN_FILE {self.enrolment_token_file}: cannot be read: {error.strerror}"
            ) from error


def load_settings() -> AgentSettings:
    """Read the environment. Raises ConfigurationError naming each variable that is wrong."""
    try:
        settings = AgentSettings()
    except ValidationError as error:
        wrong = [f"FEDAFD_AGENT_{'__'.join(map(str, item['loc'])).upper()}: {item['msg']}" for item in error.errors()]
        raise ConfigurationError("; ".join(wrong)) from None
    if settings.enrolment_token is not None and settings.enrolment_token_file is not None:
        raise ConfigurationError("set FEDAFD_AGENT_ENROLMENT_TOKEN or FEDAFD_AGENT_ENROLMENT_TOKEN_FILE, not both")
    # A secret in the environment is inherited by every child process; it is needed once.
    os.environ.pop("FEDAFD_AGENT_ENROLMENT_TOKEN", None)
    return settings
