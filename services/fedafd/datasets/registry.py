"""Adapters by name. A site adds its own as an entry point of the group `fedafd.datasets`.

An adapter is an object with `client(path, kind, options)` and `public(path, options)`; either raises ConfigurationError
where it does not serve that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError

from fedafd.datasets.column_options import ColumnOptions
from fedafd.datasets.hugging_face import HuggingFaceOptions, hugging_face_client, hugging_face_pairs
from fedafd.datasets.image_folders import ImageFolderOptions, image_folder
from fedafd.datasets.image_sets import CifarOptions, cifar100
from fedafd.datasets.intensity import need_intensity_range
from fedafd.datasets.listing import Listing
from fedafd.datasets.pair_sets import PairOptions, pair_splits
from fedafd.datasets.parquet_sets import parquet_client, parquet_pairs
from fedafd.datasets.partition import share_of
from fedafd.datasets.samples import ClientData, PairSplit
from fedafd.datasets.shapes import ShapesOptions, client_data, public_data
from fedafd.datasets.tables import TableOptions, table_client
from fedafd.datasets.text_sets import TextOptions, ag_news
from fedafd.domain.config import PartitionConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import ClientKind

__all__ = ["Adapter", "adapter_names", "load_client_data", "load_public_data"]

GROUP = "fedafd.datasets"


class Adapter(Protocol):
    """A source of data."""

    def client(self, path: Path | None, kind: ClientKind, options: Mapping[str, Any]) -> ClientData:
        """A site's private data of one kind."""

    def public(self, path: Path | None, options: Mapping[str, Any]) -> dict[str, PairSplit]:
        """Splits `train`, `val`, `test` of a public set."""


class Shapes:
    """Generated coloured shapes; see fedafd.datasets.shapes."""

    def client(self, path: Path | None, kind: ClientKind, options: Mapping[str, Any]) -> ClientData:
        return client_data(kind, _options(ShapesOptions, options, "shapes"))

    def public(self, path: Path | None, options: Mapping[str, Any]) -> dict[str, PairSplit]:
        return public_data(_options(ShapesOptions, options, "shapes"))


class _Images:
    name: str

    def read(self, path: Path | None, options: Mapping[str, Any]) -> ClientData:
        raise NotImplementedError

    def client(self, path: Path | None, kind: ClientKind, options: Mapping[str, Any]) -> ClientData:
        if kind is not ClientKind.IMAGE:
            raise _wrong_kind(self.name, ClientKind.IMAGE, kind)
        return self.read(path, options)

    def public(self, path: Path | None, options: Mapping[str, Any]) -> dict[str, PairSplit]:
        raise _no_pairs(self.name)


class Cifar100(_Images):
    """CIFAR-100."""

    name = "cifar100"

    def read(self, path: Path | None, options: Mapping[str, Any]) -> ClientData:
        return cifar100(path, _options(CifarOptions, options, self.name))


class ImageFolder(_Images):
    """Images in a folder per class."""

    name = "image-folder"

    def read(self, path: Path | None, options: Mapping[str, Any]) -> ClientData:
        return image_folder(path, _options(ImageFolderOptions, options, self.name))


class AgNews:
    """AG_NEWS or another CSV of that form."""

    def client(self, path: Path | None, kind: ClientKind, options: Mapping[str, Any]) -> ClientData:
        chosen = _options(TextOptions, options, "ag-news")
        if kind is not ClientKind.TEXT:
            raise _wrong_kind("ag-news", ClientKind.TEXT, kind)
        return ag_news(path, chosen)

    def public(self, path: Path | None, options: Mapping[str, Any]) -> dict[str, PairSplit]:
        raise _no_pairs("ag-news")


class Table:
    """CSV files with column names: pictures or texts, with a class or several labels."""

    def client(self, path: Path | None, kind: ClientKind, options: Mapping[str, Any]) -> ClientData:
        return table_client(path, kind, _options(TableOptions, options, "table"))

    def public(self, path: Path | None, options: Mapping[str, Any]) -> dict[str, PairSplit]:
        raise _no_pairs("table")


class _Pairs:
    name: str

    def client(self, path: Path | None, kind: ClientKind, options: Mapping[str, Any]) -> ClientData:
        if kind is not ClientKind.PAIR:
            raise _wrong_kind(self.name, ClientKind.PAIR, kind)
        splits, listing = self._read(path, options)
        return ClientData(kind, splits["train"], splits["val"], splits["test"], listing=listing)

    def public(self, path: Path | None, options: Mapping[str, Any]) -> dict[str, PairSplit]:
        return self._read(path, options)[0]

    def _read(self, path: Path | None, options: Mapping[str, Any]) -> tuple[dict[str, PairSplit], Listing]:
        return pair_splits(path, _options(PairOptions, options, self.name), self.name)


class Flickr(_Pairs):
    """Flickr8k, Flickr30k and cuts of them."""

    name = "flickr"


class Coco(_Pairs):
    """MS-COCO captions."""

    name = "coco"


class Parquet:
    """Parquet files in the Hugging Face image layout."""

    def client(self, path: Path | None, kind: ClientKind, options: Mapping[str, Any]) -> ClientData:
        return parquet_client(path, kind, _options(ColumnOptions, options, "parquet"))

    def public(self, path: Path | None, options: Mapping[str, Any]) -> dict[str, PairSplit]:
        return parquet_pairs(path, _options(ColumnOptions, options, "parquet"))[0]


class HuggingFace:
    """Data sets of Hugging Face's library: saved folders, ids of the hub, Parquet folders."""

    def client(self, path: Path | None, kind: ClientKind, options: Mapping[str, Any]) -> ClientData:
        return hugging_face_client(path, kind, _options(HuggingFaceOptions, options, "huggingface"))

    def public(self, path: Path | None, options: Mapping[str, Any]) -> dict[str, PairSplit]:
        return hugging_face_pairs(path, _options(HuggingFaceOptions, options, "huggingface"))[0]


def adapter_names() -> list[str]:
    """Names of all adapters that are installed."""
    return sorted(_installed())


def load_client_data(
    adapter: str,
    path: Path | None,
    kind: ClientKind,
    options: Mapping[str, Any] | None = None,
    partition: PartitionConfig | None = None,
) -> ClientData:
    """A site's private data. With `partition`, its training split is one site's share.

    Raises ConfigurationError for an unknown adapter or option, DataError for unusable data.
    """
    data = _adapter(adapter).client(path, kind, options or {})
    if partition is None:
        return data
    return dataclasses.replace(data, train=share_of(data.train, partition))


def load_public_data(adapter: str, path: Path | None, options: Mapping[str, Any] | None = None) -> dict[str, PairSplit]:
    """Splits `train`, `val`, `test` of a public set. Raises ConfigurationError, DataError."""
    return _adapter(adapter).public(path, options or {})


@cache
def _installed() -> Mapping[str, EntryPoint]:
    """Adapters by name; looked up once in a process, because it reads the files of every package."""
    return {point.name: point for point in entry_points(group=GROUP)}


def _adapter(name: str) -> Adapter:
    point = _installed().get(name)
    if point is None:
        raise ConfigurationError(f"data adapter {name!r} is not known; installed: {', '.join(adapter_names())}")
    adapter: Adapter = point.load()()
    return adapter


def _no_pairs(adapter: str) -> ConfigurationError:
    return ConfigurationError(f"data adapter {adapter}: holds no image-caption pairs, so it is no public set")


def _wrong_kind(adapter: str, serves: ClientKind, kind: ClientKind) -> ConfigurationError:
    return ConfigurationError(f"data adapter {adapter}: serves clients of kind {serves.value}, not {kind.value}")


Options = TypeVar(
    "Options",
    CifarOptions,
    ColumnOptions,
    HuggingFaceOptions,
    ImageFolderOptions,
    PairOptions,
    ShapesOptions,
    TableOptions,
    TextOptions,
)


def _options(kind: type[Options], values: Mapping[str, Any], adapter: str) -> Options:
    known = {field.name for field in dataclasses.fields(kind)}
    for name in values:
        if name not in known:
            raise ConfigurationError(
                f"data.options.{name}: {adapter} has no such option; known: {', '.join(sorted(known)) or 'none'}"
            )
    try:
        options = TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"data.options.{option}: {first['msg']}; found {first['input']!r}") from None
    need_intensity_range(getattr(options, "intensity_range", None), "data.options.intensity_range")
    return options
