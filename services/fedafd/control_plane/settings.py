"""Settings of the control plane, from FEDAFD_CONTROL_PLANE_*."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from fedafd.control_plane.oidc.settings import OidcSettings
from fedafd.control_plane.own_tls import OwnTls
from fedafd.domain.addresses import DialAddress
from fedafd.domain.secrets import LongSecret, check_length, read_secret_file
from fedafd.domain.settings import ProcessSettings, load_process_settings
from fedafd.storage import StoreSettings

__all__ = ["ControlPlaneSettings", "load_settings"]

_PREFIX = "FEDAFD_CONTROL_PLANE_"


class ControlPlaneSettings(ProcessSettings):
    """What the control plane needs."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, env_nested_delimiter="__", extra="forbid")

    host: str = Field("127.0.0.1", description="Address that REST and the dashboard listen on; 0.0.0.0: every address.")
    port: int = Field(8080, ge=1, le=65535, description="Their port.")
    tls_certificate: Path | None = Field(
        None,
        description="PEM of a certificate (with its chain) for HTTPS without a proxy, read anew when it changes; unset:"
        " HTTP.",
    )
    tls_key: Path | None = Field(None, description="PEM of its key, unencrypted.")
    publish_docs: bool = Field(True, description="Serve the API's description: /docs and /openapi.json.")
    publish_metrics: bool = Field(True, description="Serve /metrics, which asks for no key.")
    database_url: SecretStr = Field(description="Database: postgresql://user:password@host/name or sqlite:///path.")
    redis_url: SecretStr | None = Field(
        None,
        description="redis://host:6379/0. It carries wake-ups, who is connected, and queries of models. Unset: event"
        " streams read the database every STREAM_POLL_SECONDS, and models cannot be tried.",
    )
    store: StoreSettings = Field(description="The object store: STORE__URL and so on.")
    admin_key: LongSecret | None = Field(
        None, description="The first admin's API key, at least 16 characters; this or ADMIN_KEY_FILE."
    )
    admin_key_file: Path | None = Field(None, description="A file that holds the first admin's API key.")
    invitation_hours: float = Field(168.0, gt=0, description="How long an invitation's token is valid.")
    name_authority: bool = Field(
        True,
        description="Invitations name the built-in authority, so that agents trust its certificates alone; false where"
        " something in front of the aggregator ends TLS, or its certificate is your own.",
    )
    agents_address: DialAddress = Field(
        "0.0.0.0:7443",
        description="host:port that agents dial, which the dashboard writes into invitations; 0.0.0.0 stands for the"
        " host that the dashboard was asked by.",
    )
    idempotency_hours: float = Field(24.0, gt=0, description="How long the answer to an Idempotency-Key is remembered.")
    ticket_minutes: float = Field(15.0, gt=0, le=10080, description="How long a download's ticket is valid.")
    max_shard_bytes: int = Field(4 << 30, gt=0, description="Largest shard of a public set that is accepted.")
    stream_poll_seconds: float = Field(
        1.0, gt=0, description="How often an event stream reads the database when no wake-up comes."
    )
    stream_heartbeat_seconds: float = Field(
        15.0,
        gt=0,
        description="After how long without an event an event stream sends a comment, so that proxies keep it open.",
    )
    streams_per_key: int = Field(20, ge=1, description="Most event streams that one API key may have open at once.")
    failed_logins_per_minute: int = Field(
        60,
        ge=1,
        description="Most wrong keys from one address. After that, keys not yet used from there are refused without"
        " a look.",
    )
    requests_per_minute: int = Field(
        6000, ge=1, description="Most requests of one API key, over all replicas that share a Redis."
    )
    connections_per_address: int = Field(
        1000,
        ge=1,
        description="Most connections that one address may have open at once, those in a TLS handshake among them;"
        " further ones are closed. Trusted proxies have no such limit.",
    )
    trusted_proxies: str = Field(
        "127.0.0.1,::1",
        description="Addresses and networks of proxies, separated by commas, whose X-Forwarded-For is believed.",
    )
    oidc: OidcSettings | None = Field(
        None, description="The identity provider (OpenID Connect): OIDC__ISSUER and so on; unset: none."
    )
    body_idle_seconds: float = Field(
        30.0, gt=0, description="How long a request's body may send nothing before the request is refused."
    )
    log_level: str = Field("INFO", description="Least level that is logged: DEBUG, INFO, WARNING or ERROR.")

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        for network in filter(None, (part.strip() for part in value.split(","))):
            try:
                ip_network(network)
            except ValueError as error:
                raise ValueError(f"{network!r}: {error}; such as 10.0.0.7 or 10.0.0.0/8") from None
        return value

    @model_validator(mode="after")
    def _check_tls(self) -> ControlPlaneSettings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("TLS_CERTIFICATE and TLS_KEY are needed together")
        return self

    def own_tls(self) -> OwnTls | None:
        """TLS of its own; None for HTTP. Raises ConfigurationError."""
        if self.tls_certificate is None or self.tls_key is None:
            return None
        return OwnTls(self.tls_certificate.expanduser(), self.tls_key.expanduser())

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
