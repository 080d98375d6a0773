"""Settings of the agent process: `agent.yaml` describes the site, the environment (FEDAFD_AGENT_*) this process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from fedafd.domain.addresses import DialAddress
from fedafd.domain.config import TlsConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.paths import OwnPath
from fedafd.domain.secrets import plain_secret, read_secret_file
from fedafd.domain.settings import load_process_settings

__all__ = ["AgentSettings", "load_settings"]


class AgentSettings(BaseSettings):
    """What may differ between two starts of the same site's agent."""

    model_config = SettingsConfigDict(env_prefix="FEDAFD_AGENT_", env_nested_delimiter="__", extra="forbid")

    config: OwnPath = Field(Path("agent.yaml"), description="Path of the site's agent.yaml.")
    enrolment_token: SecretStr | None = Field(
        default=None, description="One-time token of the invitation; only the first start needs it."
    )
    enrolment_token_file: OwnPath | None = Field(default=None, description="A file that holds the token.")
    aggregator: DialAddress | None = Field(
        default=None, description="host:port of the aggregator, in place of agent.yaml's."
    )
    tls: TlsConfig | None = Field(
        default=None, description="TLS to the aggregator, in place of agent.yaml's: TLS__AUTHORITIES and so on."
    )
    plaintext: bool | None = Field(
        default=None, description="true: no TLS; false: TLS always; in place of agent.yaml's."
    )
    state_dir: OwnPath | None = Field(default=None, description="The agent's own folder, in place of agent.yaml's.")
    metrics_port: int | None = Field(
        default=None, ge=1, le=65535, description="Port of /metrics, in place of agent.yaml's."
    )
    cache_limit_bytes: int = Field(
        default=4 * 2**30, ge=0, description="Most space for downloads that are kept beside those in use."
    )
    poll_seconds: float = Field(
        default=30.0,
        gt=0,
        le=60,
        description="How long the aggregator may wait with its answer to a request for a task.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="auto: lines for people on a terminal, JSON elsewhere."
    )

    def token(self) -> str | None:
        """The enrolment token from wherever it was given. Raises ConfigurationError for an unreadable file."""
        if self.enrolment_token is not None:
            return plain_secret(self.enrolment_token.get_secret_value())
        if self.enrolment_token_file is None:
            return None
        return read_secret_file(self.enrolment_token_file, "FEDAFD_AGENT_ENROLMENT_TOKEN_FILE")


def load_settings() -> AgentSettings:
    """Read the environment. Raises ConfigurationError naming each variable that is wrong."""
    settings = load_process_settings(AgentSettings)
    if settings.enrolment_token is not None and settings.enrolment_token_file is not None:
        raise ConfigurationError("set FEDAFD_AGENT_ENROLMENT_TOKEN or FEDAFD_AGENT_ENROLMENT_TOKEN_FILE, not both")
    # A secret in the environment is inherited by every child process; it is needed once.
    os.environ.pop("FEDAFD_AGENT_ENROLMENT_TOKEN", None)
    return settings
