"""Data sets of the Hugging Face library: folders that it saved, and ids of its hub. Their splits, under our names.

Of a folder nothing is read that lies outside of it, and no code comes with a data set.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fedafd.datasets.column_values import picture_bytes
from fedafd.datasets.files import is_file, need_plain_path, read_json
from fedafd.datasets.parquet_files import SPLITS
from fedafd.domain.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Pictures", "chosen_splits", "hub_set", "is_saved_set", "saved_set", "type_in_words"]

_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_DICT, _STATE = "dataset_dict.json", "state.json"


def is_saved_set(folder: Path) -> bool:
    """Whether `save_to_disk` made the folder."""
    return is_file(folder / _DICT) or (is_file(folder / _STATE) and is_file(folder / "dataset_info.json"))


def saved_set(folder: Path) -> dict[str, Dataset]:
    """What `save_to_disk` left in `folder`, by split; one set alone is split `train`. Raises DataError."""
    _library()
    from datasets import Dataset

    names = _split_names(folder)
    folders = {name: folder / name for name in names} if names is not None else {"train": folder}
    sets = {}
    for name, part in folders.items():
        _need_own_files(part)
        with _in_words(str(part)):
            sets[name] = Dataset.load_from_disk(str(part), keep_in_memory=False)
    return sets


def hub_set(name: str, config: str | None, revision: str | None) -> dict[str, Dataset]:
    """A data set of the hub, from the library's cache where it is there. Raises DataError."""
    _library()
    from datasets import DatasetDict, load_dataset

    with _in_words(f"data set {name}"):
        loaded = load_dataset(name, config, revision=revision)
    if not isinstance(loaded, DatasetDict):
        raise DataError(f"data set {name}: has no splits")
    return {str(split): data for split, data in loaded.items()}


def chosen_splits(
    available: Mapping[str, Dataset], chosen: Mapping[str, str | None], where: str, *, may_lack: frozenset[str]
) -> dict[str, Dataset]:
    """The set of each of our splits: the one `chosen`, else the one of a usual name. Raises DataError.

    `may_lack` splits are left out where there is none.
    """
    chosen_sets: dict[str, Dataset] = {}
    names: dict[str, str] = {}
    for split in SPLITS:
        name = chosen[split] or _usual(available, split, where)
        if name is None and split in may_lack:
            continue
        if name is None or name not in available:
            wanted = "no split for" if name is None else f"no split {name!r}, which options.{split} names for"
            raise DataError(
                f"{where}: {wanted} {split}; splits found: {', '.join(available)}; set options.{split} to one of them,"
                " or options.val_fraction and test_fraction to cut val and test from train"
            )
        chosen_sets[split], names[split] = available[name], name
    if names["train"] in (names.get("val"), names.get("test")):
        raise DataError(f"{where}: split {names['train']!r} is train and held out, too; name another")
    return chosen_sets


class Pictures:
    """One column's pictures, as the bytes of their files."""

    def __init__(self, data: Dataset, column: str, where: str, *, may_read_files: bool) -> None:
        """`may_read_files`: of what the library fetched it keeps some pictures as files of its cache."""
        from datasets import Image, Value

        feature = data.features[column]
        is_struct = isinstance(feature, dict) and "bytes" in feature
        self.is_of_pictures = isinstance(feature, Image) or is_struct
        if isinstance(feature, Value):
            self.is_of_pictures = feature.dtype in ("binary", "large_binary")
        data = data.select_columns([column]).with_format(None)
        self._data = data.cast_column(column, Image(decode=False)) if isinstance(feature, Image) else data
        self._column, self._source, self._may_read_files = column, where, may_read_files

    def name(self, row: int) -> str:
        """Where the picture comes from."""
        return f"{self._source}, row {row}"

    def read(self, row: int) -> bytes:
        """Raises DataError for a picture that is not in the set, but only named by it."""
        cell = self._data[row][self._column]
        if self._may_read_files and isinstance(cell, dict) and cell.get("bytes") is None and cell.get("path"):
            from datasets.utils.file_utils import xopen

            with _in_words(self.name(row)), xopen(cell["path"], "rb") as file:
                content: bytes = file.read()
                return content
        return picture_bytes(cell, self.name(row))


def type_in_words(feature: object) -> str:
    """What a column holds."""
    return str(getattr(feature, "dtype", None) or type(feature).__name__)


def _usual(available: Mapping[str, Dataset], split: str, where: str) -> str | None:
    names = [name for name in available if name in _NAMES[split]]
    if len(names) > 1:
        raise DataError(f"{where}: splits {', '.join(names)} could be {split}; set options.{split} to one of them")
    return names[0] if names else None


def _split_names(folder: Path) -> list[str] | None:
    """Of a saved DatasetDict; None for a set alone."""
    path = folder / _DICT
    if not is_file(path):
        return None
    content = read_json(path, "huggingface")
    names = content.get("splits") if isinstance(content, dict) else None
    if not isinstance(names, list) or not names:
        raise DataError(f"{path}: names no splits; save the data set again with save_to_disk")
    return [need_plain_path(name, str(path)) for name in names]


def _need_own_files(folder: Path) -> None:
    """The library opens what state.json names, wherever that is."""
    path = folder / _STATE
    content = read_json(path, "huggingface")
    files = content.get("_data_files") if isinstance(content, dict) else None
    if not isinstance(files, list):
        raise DataError(f"{path}: names no data files; save the data set again with save_to_disk")
    root = Path(os.path.realpath(folder))
    for entry in files:
        name = need_plain_path(entry.get("filename") if isinstance(entry, dict) else entry, str(path))
        if not is_file(folder / name):
            raise DataError(f"{folder / name}: no such file, which {path} names; copy the whole folder again")
        if not Path(os.path.realpath(folder / name)).is_relative_to(root):
            raise DataError(f"{folder / name}: a link out of the data's folder; copy the file into it")
    content_type = content.get("_format_type")
    if content_type not in (None, "python"):
        raise DataError(
            f"{path}: the set was saved in the format {content_type!r}; save it again after `reset_format()`"
        )


def _library() -> None:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import datasets
    except ImportError:
        raise ConfigurationError(
            "data adapter huggingface: needs Hugging Face's datasets: pip install 'fedafd[huggingface]'"
        ) from None
    datasets.disable_progress_bars()


@contextmanager
def _in_words(where: str) -> Iterator[None]:
    """The library raises what its many parts raise."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:400] or type(error).__name__
        raise DataError(f"{where}: cannot be loaded: {said}") from None
