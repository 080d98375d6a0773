"""Settings of the aggregator, from FEDAFD_AGGREGATOR_*."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, JsonValue, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from fedafd.domain.addresses import ListenAddress, OriginUrl
from fedafd.domain.secrets import LongSecret
from fedafd.domain.settings import ProcessSettings, load_process_settings
from fedafd.storage import StoreSettings

__all__ = ["AggregatorSettings", "StoredSettings", "load_settings", "load_stored_settings"]

_PREFIX = "FEDAFD_AGGREGATOR_"


class StoredSettings(ProcessSettings):
    """What `fedafd store verify` and `prune` need of an aggregator's settings: where its database and store are."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, env_nested_delimiter="__", extra="forbid")

    database_url: SecretStr = Field(
        description="Database: postgresql://user:password@host/name or sqlite:///path; the control plane's."
    )
    store: StoreSettings = Field(description="The object store: STORE__URL and so on.")


class AggregatorSettings(StoredSettings):
    """What an aggregator needs."""

    listen: ListenAddress = Field("127.0.0.1:7443", description="host:port that agents and distillers call.")
    redis_url: SecretStr = Field(
        description="redis://host:6379/0. It carries stages to the distillers, wake-ups, and who is connected."
    )
    store_for_sites: OriginUrl | None = Field(
        None,
        description="The object store as sites reach it, such as https://store.example.org:9000: agents with"
        " `direct_uploads` send blobs there, past the aggregator. Needs an S3 store. Unset: none does.",
    )
    internal_token: LongSecret = Field(
        description="Secret that is the same for all aggregators and distillers, at least 16 characters."
    )
    previous_internal_token: LongSecret | None = Field(
        None, description="The old internal token, for the first start after it was changed."
    )
    authority_certificate: Path | None = Field(
        None, description="PEM of your own authority for clients' certificates; unset: the built-in one."
    )
    authority_key: Path | None = Field(None, description="PEM of its key, unencrypted.")
    client_certificate_days: float = Field(
        30.0, gt=0, le=3650, description="How long a client's certificate is valid; agents renew it after half of that."
    )
    require_client_keys: bool = Field(
        True,
        description="Refuse agents without a key of their own: an enrolment without one, and a credential that is bound"
        " to none, as agents of early versions have. false: while such agents are being updated, see certificates.md.",
    )
    tls_certificate: Path | None = Field(
        None, description="PEM of the server's certificate; unset: one of the built-in authority."
    )
    tls_key: Path | None = Field(None, description="PEM of its key.")
    tls_client_authorities: Path | None = Field(
        None, description="PEM of the authorities whose certificates clients must show; unset: clients show none."
    )
    tls_names: str = Field(
        "", description="Further host names or addresses for the built-in authority's certificate, separated by commas."
    )
    plaintext: bool | None = Field(
        None,
        description="true: no TLS, even from other machines: whoever sees the traffic can read and change it. For an"
        " aggregator behind a proxy that ends TLS. false: TLS always. Unset: TLS, except on loopback.",
    )
    internal_listen: ListenAddress | None = Field(
        None, description="host:port for distillers alone, with certificates on both sides; unset: they use LISTEN."
    )
    health_listen: ListenAddress | None = Field(
        None, description="host:port of a health check without TLS, for probes; unset: health is asked on LISTEN."
    )
    metrics_listen: ListenAddress | None = Field(None, description="host:port of /metrics; unset: no metrics.")
    poll_seconds: float = Field(
        1.0, gt=0, description="How often the coordinator reads the database when no wake-up comes."
    )
    lease_seconds: float = Field(
        10.0, gt=0, description="How long the coordinator's lease lasts; a dead one is replaced after that."
    )
    stage_lease_seconds: float = Field(
        15.0,
        ge=1,
        description="How long a distiller may send nothing before its stage is taken from it and announced again.",
    )
    session_lease_seconds: float = Field(
        30.0,
        ge=1,
        description="How long a client's agent may make no call before another agent may act for the client.",
    )
    shutdown_grace_seconds: float = Field(
        25.0, ge=0, description="How long running calls may take after SIGTERM; keep it below the platform's own limit."
    )
    tracking: dict[str, dict[str, JsonValue]] = Field(
        default_factory=dict,
        description="Trackers that get the metrics of each finished round: name to options, such as"
        ' {"mlflow": {"uri": "http://mlflow:5000"}}.',
    )
    tracking_folder: Path = Field(
        Path("fedafd-tracking"),
        description="Folder of trackers that write files and name no folder of their own; made when needed.",
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


def load_stored_settings() -> StoredSettings:
    """Read where database and store are. Raises ConfigurationError naming each variable that is missing or wrong."""
    return load_process_settings(StoredSettings)
