"""A model folder on this machine, read file by file: JSON, safetensors and a tokenizer.

Whoever made the folder, nothing in it is executed and nothing is fetched: a file that is no plain data is refused, and
an encoder that names pretrained weights, too. A file is refused that is not what the folder's SHA256SUMS says.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fedafd.domain.errors import DataError
from fedafd.learning.lora import merged_encoder
from fedafd.learning.model_sums import check_sum, read_sums
from fedafd.learning.sample_encoder import SampleEncoder

__all__ = ["GLOBAL_MODEL", "PERSONALIZED_MODEL", "ModelFolder", "read_whole"]

T = TypeVar("T")

GLOBAL_MODEL, PERSONALIZED_MODEL = "fedafd-global", "fedafd-personalized"
"""`model_type` of the two kinds of model folders."""
_CLASSES = {GLOBAL_MODEL: "GlobalModel", PERSONALIZED_MODEL: "PersonalizedModel"}
_POINTER = b"version https://git-lfs"


class ModelFolder:
    """One model folder. Raises DataError naming the folder or file that is missing or is not what it should be."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        _check_folder(self.path)
        self._sums = read_sums(self.path)
        self.described = self.json("config.json")
        """`config.json`: what the model is."""
        self.model_type = str(self.described.get("model_type"))
        if self.model_type not in _CLASSES:
            raise DataError(
                f"{self.path / 'config.json'}: model_type is {self.model_type!r}, and a model of FedAFD is one of"
                f" {', '.join(sorted(_CLASSES))}; name the folder of one"
            )

    def need(self, model_type: str) -> None:
        """Raise DataError unless the folder holds that type of model."""
        if self.model_type != model_type:
            raise DataError(
                f"{self.path}: is a {self.model_type} model, and a {model_type} one is needed; in Python load it with"
                f" {_CLASSES[self.model_type]}"
            )

    def value(self, key: str) -> Any:
        """A value of `config.json`."""
        if key not in self.described:
            raise DataError(f"{self.path / 'config.json'}: has no {key!r}")
        return self.described[key]

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file that holds keys and values."""
        return parsed_json(self._bytes(name), str(self.path / name))

    def tensors(self, name: str) -> dict[str, Tensor]:
        """A safetensors file, memory-mapped."""
        path = self._file(name)
        try:
            loaded = load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            with path.open("rb") as file:
                pointer = file.read(len(_POINTER)) == _POINTER
            fault = "it is a Git LFS pointer; fetch the file itself" if pointer else str(error)
            raise DataError(f"{path}: not a readable safetensors file: {fault}") from None
        check_sum(self.path, name, self._sums)
        return loaded

    def encoder(self, prefix: str) -> SampleEncoder:
        """The encoder in the sub-folder `prefix`; LoRA's matrices, which a shared model keeps apart, are merged."""
        tokenizer, source = f"{prefix}/tokenizer.json", str(self.path / prefix)
        described, tensors = merged_encoder(
            self.json(f"{prefix}/config.json"), self.tensors(f"{prefix}/model.safetensors"), source
        )
        words = self._bytes(tokenizer) if (self.path / tokenizer).is_file() else None
        return SampleEncoder.restored(described, tensors, words, source=source)

    def _file(self, name: str) -> Path:
        path = self.path / name
        if not path.is_file():
            raise DataError(f"{path}: is missing; the model folder is not whole, copy it again")
        return path

    def _bytes(self, name: str) -> bytes:
        path = self._file(name)
        check_sum(self.path, name, self._sums)
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def parsed_json(content: bytes, source: str) -> dict[str, Any]:
    """Keys and values. Raises DataError naming `source`."""
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source}: not readable as JSON: {error}") from None
    if not isinstance(values, dict):
        raise DataError(f"{source}: holds {type(values).__name__}, and must hold keys and values")
    return values


def read_whole(path: str | Path, read: Callable[[ModelFolder], T]) -> T:
    """`read` of the folder that `path` leads to, all of one version.

    A site's `model` is a link that moves on after each round, and what it led to is removed: reading starts again then.
    """
    while True:
        target = _resolved(Path(path))
        try:
            return read(ModelFolder(target))
        except (DataError, FileNotFoundError):
            if _resolved(Path(path)) == target:
                raise


def _resolved(path: Path) -> Path:
    try:
        return path.resolve() if path.is_symlink() else path
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def _check_folder(path: Path) -> None:
    try:
        if (path / "config.json").is_file():
            return
        inside = [name for name in ("model", "current", "global") if (path / name / "config.json").is_file()]
        state, folder, there = (path / "model.safetensors").is_file(), path.is_dir(), path.exists()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    if not there:
        raise DataError(f"{path}: no such folder")
    if not folder:
        raise DataError(f"{path}: is a file; name the folder that holds the model's config.json")
    advice = f"did you mean {path / inside[0]}?" if inside else "name the folder that holds one"
    raise DataError(f"{path}: not a model folder; it has no config.json{' beside its weights' * state}; {advice}")
