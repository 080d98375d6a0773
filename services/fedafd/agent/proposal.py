"""What a folder seems to hold: which adapter reads it, as which kind of client. A proposal has been loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedafd.datasets import ClientData, load_client_data
from fedafd.datasets.hub_sets import is_saved_set
from fedafd.datasets.labels import has_several
from fedafd.datasets.registry import adapter_names
from fedafd.datasets.samples import PairSplit
from fedafd.datasets.table_hints import table_hints
from fedafd.domain.errors import ConfigurationError, DataError
from fedafd.domain.kinds import ClientKind

__all__ = ["DataProposal", "propose"]

_DEEPEST = 3
_SHOWN = 5
Source = tuple[str, ClientKind, Mapping[str, Any]]
"""An adapter, the kind of its clients, and options that the folder's files ask for."""
_SERVES = {"image-folder": ClientKind.IMAGE, "cifar100": ClientKind.IMAGE, "ag-news": ClientKind.TEXT}
_SERVES |= {"flickr": ClientKind.PAIR, "coco": ClientKind.PAIR}


@dataclass(frozen=True, kw_only=True)
class DataProposal:
    """A `data` block and its kind, and the data that it loads."""

    adapter: str
    kind: ClientKind
    path: Path | None
    options: Mapping[str, Any] = field(default_factory=dict)
    data: ClientData

    @property
    def task(self) -> str | None:
        """The task that the labels are for, where it is not the usual one of the kind."""
        split = self.data.train
        return "multi-label" if not isinstance(split, PairSplit) and has_several(split.labels) else None


def propose(
    path: Path | None,
    *,
    adapter: str | None = None,
    kind: ClientKind | None = None,
    options: Mapping[str, Any] | None = None,
) -> DataProposal:
    """The first source that reads `path`; `adapter` and `kind` are taken as given.

    Raises DataError where nothing does: of the likeliest adapter, or that none knows what is there; ConfigurationError.
    """
    if path is not None:
        path = path.expanduser().absolute()
        if not path.exists():
            raise DataError(f"{path}: no such folder")
    failed: DataError | ConfigurationError | None = None
    for folder in _candidate_folders(path):
        for name, as_kind, seen in _sources(folder, adapter, kind):
            chosen = {**seen, **(options or {})}
            try:
                data = load_client_data(name, folder, as_kind, chosen)
            except (DataError, ConfigurationError) as error:
                failed = failed or error
            else:
                return DataProposal(adapter=name, kind=as_kind, path=folder, options=chosen, data=data)
    raise failed or DataError(_nothing(path))


def _candidate_folders(path: Path | None) -> Iterator[Path | None]:
    """The folder, then what is in it if that is one folder alone, as unpacked archives have it."""
    yield path
    for _ in range(_DEEPEST):
        if path is None or not path.is_dir():
            return
        inner = [child for child in path.iterdir() if not child.name.startswith((".", "__"))]
        if len(inner) != 1 or not inner[0].is_dir():
            return
        path = inner[0]
        yield path


def _sources(folder: Path | None, adapter: str | None, kind: ClientKind | None) -> list[Source]:
    if adapter is not None:
        if adapter not in adapter_names():
            raise ConfigurationError(f"--adapter {adapter} is not known; installed: {', '.join(adapter_names())}")
        hints = table_hints(folder) if adapter == "table" and folder is not None and folder.is_dir() else None
        if hints is not None and kind in (None, hints[0]):
            return [(adapter, *hints)]
        kinds = [kind] if kind is not None else [_SERVES[adapter]] if adapter in _SERVES else list(ClientKind)
        return [(adapter, served, {}) for served in kinds]
    if folder is None or not folder.is_dir():
        return []
    return [source for source in _by_its_files(folder) if kind in (None, source[1])]


def _by_its_files(folder: Path) -> Iterator[Source]:
    has_table = any(folder.glob("*.csv")) or any(folder.glob("*.tsv"))
    if has_table and not (folder / "classes.txt").exists() and (hints := table_hints(folder)) is not None:
        yield "table", *hints
    yield from ((name, kind, {}) for name, kind in _adapters(folder))


def _adapters(folder: Path) -> Iterator[tuple[str, ClientKind]]:
    if any(folder.glob("classes.txt")) or any(folder.glob("*.csv")):
        yield "ag-news", ClientKind.TEXT
    if any(folder.glob("dataset_*.json")):
        yield "flickr", ClientKind.PAIR
    if any(folder.glob("captions_*.json")):
        yield "coco", ClientKind.PAIR
    if any(folder.glob("*.parquet")) or any(folder.glob("data/*.parquet")):
        yield from (("parquet", kind) for kind in (ClientKind.PAIR, ClientKind.IMAGE, ClientKind.TEXT))
    if is_saved_set(folder):
        yield from (("huggingface", kind) for kind in (ClientKind.PAIR, ClientKind.IMAGE, ClientKind.TEXT))
        return
    if any(folder.glob("*.npz")) or (folder / "meta").is_file():
        yield "cifar100", ClientKind.IMAGE
    if any(child.is_dir() for child in folder.iterdir()):
        yield "image-folder", ClientKind.IMAGE


def _nothing(path: Path | None) -> str:
    if path is None:
        return "give the folder of your data"
    if path.is_file():
        return f"{path}: is a file; give the folder that it is in"
    names = sorted(child.name for child in path.iterdir())
    if not names:
        return f"{path}: is empty"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (
        f"{path}: no adapter knows what this is ({', '.join(names[:_SHOWN])}{more}); docs/data.md shows the layouts"
        " that are read, a folder per class for pictures among them"
    )
