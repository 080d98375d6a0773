"""Which object store, as settings say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from fedafd.domain.addresses import StoreEndpoint
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.secrets import read_secret_file
from fedafd.storage.folder import FolderStore
from fedafd.storage.store import FormStore, ObjectStore

if TYPE_CHECKING:
    from fedafd.storage.s3 import S3Store

__all__ = ["StoreSettings", "open_store", "open_store_for_sites"]


class StoreSettings(BaseModel):
    """The object store of a process: a folder, or a bucket of an S3 service."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[
        str, Field(description="A folder's path, or s3://bucket; a bucket needs the endpoint and both keys.")
    ]
    endpoint: Annotated[StoreEndpoint | None, Field(description="host:port of the S3 service.")] = None
    region: str | None = Field(None, description="The bucket's region; unset: asked of the service.")
    secure: Annotated[bool, Field(description="Whether to use TLS to the S3 service.")] = True
    access_key: str | None = Field(None, description="The access key's name.")
    secret_key: SecretStr | None = Field(None, description="The access key's secret; this or SECRET_KEY_FILE.")
    secret_key_file: Annotated[Path | None, Field(description="A file that holds the access key's secret.")] = None


def open_store(settings: StoreSettings) -> ObjectStore:
    """The store that `settings` describe. Raises ConfigurationError naming the setting that is missing."""
    if not settings.url.startswith("s3://"):
        return FolderStore(Path(settings.url.removeprefix("file://")))
    return _open_bucket(settings)


def open_store_for_sites(settings: StoreSettings, url: str) -> FormStore:
    """The bucket of `settings` as sites reach it, to make forms for them; nobody is connected to.

    Raises ConfigurationError for a store that is no S3 service.
    """
    if not settings.url.startswith("s3://"):
        raise ConfigurationError(f"store_for_sites: needs an S3 service, and the store is {settings.url}")
    parts = urlsplit(url)
    # The region is part of what is signed; asking the service for it would go the sites' way.
    changes = {"endpoint": parts.netloc, "secure": parts.scheme == "https", "region": settings.region or "us-east-1"}
    return _open_bucket(settings.model_copy(update=changes))


def _open_bucket(settings: StoreSettings) -> S3Store:
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
