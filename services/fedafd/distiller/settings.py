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

    aggregator: DialAddress = Field(
        "127.0.0.1:7443", description="host:port of the aggregator, or of its INTERNAL_LISTEN where that is set."
    )
    tls: TlsConfig | None = Field(
        None, description="TLS__AUTHORITIES and so on; unset: TLS by the internal token, on both sides."
    )
    plaintext: bool | None = Field(
        None,
        description="true: no TLS, and whoever sees the traffic can read the internal token. false: TLS always. Unset:"
        " TLS, except to this machine itself.",
    )
    redis_url: SecretStr = Field(description="redis://host:6379/0, the aggregator's: stages come by it.")
    store: StoreSettings = Field(description="The object store: STORE__URL and so on.")
    internal_token: LongSecret = Field(description="Secret that is the same for all aggregators and distillers.")
    device: str = Field(
        "auto", description="Device: cpu, cuda, cuda:N, mps or auto, which takes a GPU if there is one."
    )
    processes: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="Processes that share the training of the global model; auto: one per GPU."
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; unset: OMP_NUM_THREADS, else all cores.")
    cache_dir: Path | None = Field(None, description="Folder that keeps public sets; unset: a temporary one.")
    cache_limit_bytes: int = Field(
        20 * 2**30,
        ge=0,
        description="Most space in CACHE_DIR for decoded public images; shards and features may take as much, each.",
    )
    metrics_listen: ListenAddress | None = Field(None, description="host:port of /metrics; unset: no metrics.")
    keep_progress_seconds: float = Field(
        60.0,
        ge=0,
        description="Least time between two looks at a long stage's progress that are kept in the store, from where"
        " another distiller goes on; where keeping is slow, it is done more seldom. 0: after each step.",
    )
    shutdown_grace_seconds: float = Field(
        25.0,
        ge=0,
        description="How long a stage may go on after SIGTERM; then it is handed back for another distiller. Keep it"
        " 10 s below the platform's own limit.",
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
