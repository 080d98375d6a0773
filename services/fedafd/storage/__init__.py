"""The object store: a folder or anything that speaks S3."""

from fedafd.storage.factory import StoreSettings, open_store, open_store_for_sites
from fedafd.storage.store import (
    CHUNK_BYTES,
    FormStore,
    ObjectInfo,
    ObjectStore,
    PresigningStore,
    UnfinishedWrites,
    UploadForm,
)
from fedafd.storage.write_probe import WriteProbe

__all__ = [
    "CHUNK_BYTES",
    "FormStore",
    "ObjectInfo",
    "ObjectStore",
    "PresigningStore",
    "StoreSettings",
    "UnfinishedWrites",
    "UploadForm",
    "WriteProbe",
    "open_store",
    "open_store_for_sites",
]
