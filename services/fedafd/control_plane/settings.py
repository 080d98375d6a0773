"""Settings of the control plane, from FEDAFD_CONTROL_PLANE_*."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from fedafd.control_plane.oidc.settings import OidcSettings
from fedafd.domain.secrets import LongSecret, check_length, read_secret_file
from fedafd.domain.settings import ProcessSettings, load_process_settings
from fedafd.storage import StoreSettings

__all__ = ["ControlPlaneSettings", "load_settings"]

_PREFIX = "FEDAFD_CONTROL_PLANE_"


class ControlPlaneSettings(ProcessSettings):
    """What the control plane needs."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, env_nested_delimiter="__", extra="forbid")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=1, le=65535, description="Port to listen on.")
    database_url: SecretStr = Field(description="SQLAlchemy URL of the database, PostgreSQL or SQLite.")
    redis_url: SecretStr | None = Field(None, description="Presence, wake-ups and queries; unset: none of them.")
    store: StoreSettings = Field(description="The object store: STORE__URL and so on.")
    admin_key: LongSecret | None = Field(None, description="The first admin's API key.")
    admin_key_file: Path | None = Field(None, description="A file that holds it.")
    invitation_hours: float = Field(168.0, gt=0, description="How long an enrolment token lives.")
    name_authority: bool = Field(
        True,
        description="Invitations name the built-in authority, so that agents trust its certificates alone; false where"
        " something in front of the aggregator ends TLS, or its certificate is your own.",
    )
    idempotency_hours: float = Field(24.0, gt=0, description="How long the answer to an Idempotency-Key is remembered.")
    ticket_minutes: float = Field(15.0, gt=0, le=10080, description="How long a download ticket is good.")
    max_shard_bytes: int = Field(4 << 30, gt=0, description="Longest shard of a public set that is taken.")
    stream_poll_seconds: float = Field(1.0, gt=0, description="How often an event stream looks without a wake-up.")
    stream_heartbeat_seconds: float = Field(15.0, gt=0, description="A comment after so long without an event.")
    streams_per_key: int = Field(20, ge=1, description="Event streams of one key at once.")
    failed_logins_per_minute: int = Field(
        60, ge=1, description="Wrong keys from one address; beyond it keys that are new there are refused unseen."
    )
    requests_per_minute: int = Field(6000, ge=1, description="Requests of one key, over all replicas that share Redis.")
    trusted_proxies: str = Field(
        "127.0.0.1,::1",
        description="Addresses and networks, with commas between, whose X-Forwarded-For tells where a request is from.",
    )
    oidc: OidcSettings | None = Field(None, description="The identity provider; unset: none.")
    body_idle_seconds: float = Field(30.0, gt=0, description="A body of which nothing comes for so long is refused.")
    log_level: str = Field("INFO", description="Least level that is logged: DEBUG, INFO, WARNING or ERROR.")

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        for each in filter(None, (part.strip() for part in value.split(","))):
            try:
                ip_network(each)
            except ValueError as error:
                raise ValueError(f"{each!r}: {error}; such as 10.0.0.7 or 10.0.0.0/8") from None
        return value

    def first_admin_key(self) -> str | None:
        """The first admin's key from wherever it was given. Raises ConfigurationError."""
        if self.admin_key is not None:
            return self.admin_key.get_secret_value()
        file = self.admin_key_file
        name = f"{_PREFIX}ADMIN_KEY_FILE"
        return None if file is None else check_length(read_secret_file(file, name), f"{name} {file}")


def load_settings() -> ControlPlaneSettings:
    """Settings from the environment. Raises ConfigurationError naming each variable that is missing or wrong."""
    return load_process_settings(ControlPlaneSettings)
