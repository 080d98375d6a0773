"""Settings of the distiller, from FEDAFD_DISTILLER_*."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from fedafd.domain.addresses import DialAddress, ListenAddress
from fedafd.domain.config import TlsConfig
from fedafd.domain.proxies import is_off_machine
from fedafd.domain.secrets import LongSecret
from fedafd.domain.settings import ProcessSettings, load_process_settings
from fedafd.rpc.own_tls import internal_trust
from fedafd.rpc.tls import Trust
from fedafd.storage import StoreSettings

__all__ = ["DistillerSettings", "line_to_aggregator", "load_settings"]

_PREFIX = "FEDAFD_DISTILLER_"


class DistillerSettings(ProcessSettings):
    """What a distiller needs."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, env_nested_delimiter="__", extra="forbid")

    aggregator: DialAddress = Field("127.0.0.1:7443", description="host:port of the aggregator.")
    tls: TlsConfig | None = Field(
        None, description="TLS__AUTHORITIES and so on; unset: TLS by the internal token, on both sides."
    )
    plaintext: bool | None = Field(
        None,
        description="true: no TLS: whoever sees the traffic reads the internal token. false: TLS always. unset: TLS to"
        " all but this machine itself.",
    )
    redis_url: SecretStr = Field(description="Broker of the stages, and wake-ups.")
    store: StoreSettings = Field(description="The object store: STORE__URL and so on.")
    internal_token: LongSecret = Field(description="Shared with the aggregators.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps.")
    processes: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="Processes that share the global training; auto: one per GPU."
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; unset: OMP_NUM_THREADS, else all cores.")
    cache_dir: Path | None = Field(None, description="Public sets are kept here; unset: a temporary folder.")
    cache_limit_bytes: int = Field(
        20 * 2**30,
        ge=0,
        description="Decoded public images kept in cache_dir at most, and as much again of shards and of features.",
    )
    metrics_listen: ListenAddress | None = Field(None, description="host:port for Prometheus; unset: none.")
    shutdown_grace_seconds: float = Field(
        25.0,
        ge=0,
        description="After SIGTERM a stage may go on for so long, then it is handed back for another distiller;"
        " keep it below the platform's own limit.",
    )
    log_level: str = Field("INFO", description="Least level that is logged: DEBUG, INFO, WARNING or ERROR.")


def load_settings() -> DistillerSettings:
    """Settings from the environment. Raises ConfigurationError naming each variable that is missing or wrong."""
    return load_process_settings(DistillerSettings)


def line_to_aggregator(settings: DistillerSettings) -> TlsConfig | Trust | None:
    """TLS to the aggregator; None for none."""
    if settings.tls is not None:
        return settings.tls
    plain = not is_off_machine(settings.aggregator) if settings.plaintext is None else settings.plaintext
    return None if plain else internal_trust(settings.internal_token.get_secret_value())
