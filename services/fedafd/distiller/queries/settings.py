"""Settings of the query worker, from FEDAFD_QUERIES_*."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from fedafd.domain.addresses import ListenAddress
from fedafd.domain.settings import ProcessSettings, load_process_settings
from fedafd.storage import StoreSettings

__all__ = ["QueriesSettings", "load_settings"]


class QueriesSettings(ProcessSettings):
    """What a query worker needs: it reads the object store, and talks to nobody but Redis."""

    model_config = SettingsConfigDict(env_prefix="FEDAFD_QUERIES_", env_nested_delimiter="__", extra="forbid")

    redis_url: SecretStr = Field(
        description="redis://host:6379/0, the control plane's: queries come and answers go by it."
    )
    store: StoreSettings = Field(description="The object store: STORE__URL and so on.")
    device: str = Field("cpu", description="Device: cpu, cuda, cuda:N, mps or auto; leave a GPU to the distiller.")
    threads: int | None = Field(None, ge=1, description="CPU threads; unset: OMP_NUM_THREADS, else all cores.")
    cache_dir: Path | None = Field(
        None, description="Folder that keeps public sets and their embeddings; unset: a temporary one."
    )
    cache_limit_bytes: int = Field(
        5 * 2**30, ge=0, description="Most space in CACHE_DIR for embeddings; public sets may take as much again."
    )
    most_pictures: int = Field(
        5000,
        ge=1,
        description="Most public pictures that are searched: those of the test split first, then val, then train. Each"
        " model version embeds them once.",
    )
    versions_held: int = Field(
        3, ge=2, description="Model versions in memory at most; the one that was asked longest ago makes room."
    )
    metrics_listen: ListenAddress | None = Field(None, description="host:port of /metrics; unset: no metrics.")
    log_level: str = Field("INFO", description="Least level that is logged: DEBUG, INFO, WARNING or ERROR.")


def load_settings() -> QueriesSettings:
    """Settings from the environment. Raises ConfigurationError naming each variable that is missing or wrong."""
    return load_process_settings(QueriesSettings)
