"""Data adapters: private data of clients and the public set, read from files or generated."""

from fedafd.datasets.fingerprint import DataFingerprint, data_fingerprint, fingerprint_of
from fedafd.datasets.pixels import PixelCache
from fedafd.datasets.public_set import PublicSet, read_manifest, write_public_set
from fedafd.datasets.registry import load_client_data, load_public_data
from fedafd.datasets.samples import ClientData, ImageSplit, PairSplit, TextSplit

__all__ = [
    "ClientData",
    "DataFingerprint",
    "ImageSplit",
    "PairSplit",
    "PixelCache",
    "PublicSet",
    "TextSplit",
    "data_fingerprint",
    "fingerprint_of",
    "load_client_data",
    "load_public_data",
    "read_manifest",
    "write_public_set",
]
