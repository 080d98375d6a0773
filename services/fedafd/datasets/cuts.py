"""Which adapters read a folder laid out like docs/data.md's small real cuts: one public set and three sites."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedafd.domain.errors import DataError
from fedafd.domain.kinds import ClientKind

__all__ = ["DataSource", "generated", "real_cuts"]


@dataclass(frozen=True)
class DataSource:
    """Arguments of load_client_data or load_public_data."""

    adapter: str
    path: Path | None = None
    options: dict[str, Any] = field(default_factory=dict)


def real_cuts(folder: Path) -> tuple[DataSource, dict[ClientKind, DataSource]]:
    """Public set and one site per kind from `flickr8k/`, `cifar100/` and `ag_news_csv/` below `folder`.

    Raises DataError naming the folder that is missing.
    """
    for name in ("flickr8k", "cifar100", "ag_news_csv"):
        if not (folder / name).is_dir():
            raise DataError(f"{folder / name}: no such folder; --data needs flickr8k/, cifar100/ and ag_news_csv/")
    flickr = folder.absolute() / "flickr8k"
    return DataSource("flickr", flickr, {"role": "public"}), {
        ClientKind.IMAGE: DataSource("cifar100", folder.absolute() / "cifar100"),
        ClientKind.TEXT: DataSource("ag-news", folder.absolute() / "ag_news_csv"),
        ClientKind.PAIR: DataSource("flickr", flickr, {"role": "private"}),
    }


def generated(seed: int) -> tuple[DataSource, dict[ClientKind, DataSource]]:
    """Public set and one site per kind of generated shapes; every part has samples of its own.

    The text site is small, because its task is easy with more: a site's own words for eight shapes.
    """
    sizes = {ClientKind.IMAGE: 600, ClientKind.TEXT: 60, ClientKind.PAIR: 400}
    clients = {
        kind: DataSource("shapes", None, {"num_train": size, "seed": seed * 10 + number})
        for number, (kind, size) in enumerate(sizes.items(), start=1)
    }
    return DataSource("shapes", None, {"num_train": 1500, "seed": seed * 10}), clients
