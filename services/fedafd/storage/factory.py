"""Which object store, as settings say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from fedafd.domain.addresses import StoreEndpoint
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.secrets import read_secret_file
from fedafd.storage.folder import FolderStore
from fedafd.storage.store import ObjectStore

__all__ = ["StoreSettings", "open_store"]


class StoreSettings(BaseModel):
    """The object store of a process: a folder, or a bucket of an S3 service."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[str, Field(description="A folder's path, or s3://bucket.")]
    endpoint: Annotated[StoreEndpoint | None, Field(description="host:port of the S3 service.")] = None
    region: str | None = None
    secure: Annotated[bool, Field(description="TLS to the S3 service.")] = True
    access_key: str | None = None
    secret_key: SecretStr | None = None
    secret_key_file: Annotated[Path | None, Field(description="File that holds the secret key.")] = None


def open_store(settings: StoreSettings) -> ObjectStore:
    """The store that `settings` describe. Raises ConfigurationError naming the setting that is missing."""
    if not settings.url.startswith("s3://"):
        return FolderStore(Path(settings.url.removeprefix("file://")))
    from fedafd.storage.s3 import S3Store

    secret = settings.secret_key.get_secret_value() if settings.secret_key else _read_secret(settings.secret_key_file)
    needed = {"endpoint": settings.endpoint, "access_key": settings.access_key, "secret_key": secret}
    missing = [name for name, value in needed.items() if not value]
    if missing:
        raise ConfigurationError(f"store: {', '.join(missing)} must be set for {settings.url}")
    return S3Store(
        endpoint=str(settings.endpoint),
        bucket=settings.url.removeprefix("s3://").strip("/"),
        access_key=str(settings.access_key),
        secret_key=str(secret),
        region=settings.region,
        secure=settings.secure,
    )


def _read_secret(path: Path | None) -> str | None:
    if path is None:
        return None
    return read_secret_file(path, "store: secret_key_file")
