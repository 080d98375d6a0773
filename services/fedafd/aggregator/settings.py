"""Settings of the aggregator, from FEDAFD_AGGREGATOR_*."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, JsonValue, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from fedafd.domain.addresses import ListenAddress, OriginUrl
from fedafd.domain.secrets import LongSecret
from fedafd.domain.settings import ProcessSettings, load_process_settings
from fedafd.storage import StoreSettings

__all__ = ["AggregatorSettings", "load_settings"]

_PREFIX = "FEDAFD_AGGREGATOR_"


class AggregatorSettings(ProcessSettings):
    """What an aggregator needs."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, env_nested_delimiter="__", extra="forbid")

    listen: ListenAddress = Field("127.0.0.1:7443", description="host:port for gRPC.")
    database_url: SecretStr = Field(description="SQLAlchemy URL of the database, PostgreSQL or SQLite.")
    redis_url: SecretStr | None = Field(None, description="Wake-ups, presence and the Celery broker.")
    store: StoreSettings = Field(description="The object store: STORE__URL and so on.")
    store_for_sites: OriginUrl | None = Field(
        None,
        description="The object store as sites reach it, such as https://store.example.org:9000: agents with"
        " `direct_uploads` send blobs there, past the aggregator. Needs an S3 store. Unset: none does.",
    )
    internal_token: LongSecret = Field(description="Shared with the distillers.")
    previous_internal_token: LongSecret | None = Field(
        None, description="The internal token before this one, for the first start after a change of it."
    )
    authority_certificate: Path | None = Field(
        None, description="PEM of your own authority for clients' certificates; unset: the built-in one."
    )
    authority_key: Path | None = Field(None, description="PEM of its key, unencrypted.")
    client_certificate_days: float = Field(
        30.0, gt=0, le=3650, description="How long a client's certificate holds; agents renew it at half of that."
    )
    require_client_keys: bool = Field(
        False, description="Refuse credentials that are bound to no key, those of agents from before there were keys."
    )
    tls_certificate: Path | None = Field(
        None, description="PEM of the server's certificate; unset: one of the built-in authority."
    )
    tls_key: Path | None = Field(None, description="PEM of its key.")
    tls_client_authorities: Path | None = Field(
        None, description="PEM of the authorities whose certificates clients must show; unset: clients show none."
    )
    tls_names: str = Field(
        "", description="Further hosts or addresses in the certificate of the built-in authority, with commas between."
    )
    plaintext: bool = Field(
        False,
        description="No TLS off loopback: whoever sees the traffic reads and changes it. For where a proxy ends TLS.",
    )
    internal_listen: ListenAddress | None = Field(
        None, description="host:port for distillers alone, with TLS on both sides; unset: they are served on LISTEN."
    )
    health_listen: ListenAddress | None = Field(
        None, description="host:port that answers about health alone, without TLS; unset: none but LISTEN."
    )
    metrics_listen: ListenAddress | None = Field(None, description="host:port for Prometheus; unset: none.")
    poll_seconds: float = Field(1.0, gt=0, description="How often the coordinator looks without a wake-up.")
    lease_seconds: float = Field(10.0, gt=0, description="A dead coordinator is replaced after so long.")
    stage_lease_seconds: float = Field(
        15.0, ge=1, description="A distiller that gives no sign of life for so long has lost its stage."
    )
    session_lease_seconds: float = Field(
        30.0,
        ge=1,
        description="An agent that gives no sign of life for so long may be replaced by another of its client.",
    )
    shutdown_grace_seconds: float = Field(
        25.0, ge=0, description="After SIGTERM running calls may take so long; keep it below the platform's own limit."
    )
    tracking: dict[str, dict[str, JsonValue]] = Field(
        default_factory=dict,
        description="Trackers that get each finished round's metrics, by name, with their options, as JSON.",
    )
    tracking_folder: Path = Field(
        Path("fedafd-tracking"), description="Where trackers write that name no other place; made when one does."
    )
    log_level: str = Field("INFO", description="Least level that is logged: DEBUG, INFO, WARNING or ERROR.")

    @model_validator(mode="after")
    def _check_tls(self) -> AggregatorSettings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("TLS_CERTIFICATE and TLS_KEY are needed together")
        if self.tls_client_authorities is not None and self.tls_certificate is None:
            raise ValueError("TLS_CLIENT_AUTHORITIES needs TLS_CERTIFICATE and TLS_KEY")
        if (self.authority_certificate is None) != (self.authority_key is None):
            raise ValueError("AUTHORITY_CERTIFICATE and AUTHORITY_KEY are needed together")
        return self


def load_settings() -> AggregatorSettings:
    """Settings from the environment. Raises ConfigurationError naming each variable that is missing or wrong."""
    return load_process_settings(AggregatorSettings)
