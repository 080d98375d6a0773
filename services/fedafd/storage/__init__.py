"""The object store: a folder or anything that speaks S3."""

from fedafd.storage.factory import StoreSettings, open_store
from fedafd.storage.store import CHUNK_BYTES, ObjectInfo, ObjectStore, PresigningStore, UnfinishedWrites
from fedafd.storage.write_probe import WriteProbe

__all__ = [
    "CHUNK_BYTES",
    "ObjectInfo",
    "ObjectStore",
    "PresigningStore",
    "StoreSettings",
    "UnfinishedWrites",
    "WriteProbe",
    "open_store",
]
