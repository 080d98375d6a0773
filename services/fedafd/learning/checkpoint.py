"""Modules and optimizers as safetensors bytes and back. No pickle: tensors by path, the rest as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from fedafd.artifacts.headers import read_meta
from fedafd.domain.errors import DataError
from fedafd.learning.tensor_bytes import tensors_of

__all__ = ["Checkpoint", "InPlace", "Snapshot", "tensors_below", "write_tensors"]

_PINNED = 1 << 30
_OS_ERROR = re.compile(r"os error (\d+)")
"""How safetensors, which has no errors of the system's kind, tells one."""


@dataclass
class Checkpoint:
    """Tensors by path, and JSON values beside them."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    def add_module(self, name: str, module: torch.nn.Module) -> None:
        """Keep a module's parameters and buffers under `name/`."""
        for key, value in module.state_dict().items():
            self.tensors[f"{name}/{key}"] = self._copied(value)

    def load_module(self, name: str, module: torch.nn.Module, *, fresh: str | None = None) -> None:
        """Give them back; parts that start with `fresh` may be missing. Raises DataError when they do not fit."""
        try:
            missing, surplus = module.load_state_dict(tensors_below(self.tensors, name), strict=False)
        except RuntimeError as error:
            raise DataError(f"state of {name} does not fit this configuration: {error}") from None
        lacking = [key for key in missing if fresh is None or not key.startswith(fresh)]
        if lacking or surplus:
            raise DataError(f"state of {name} does not fit this configuration: it lacks {lacking}, and holds {surplus}")

    def drop(self, name: str, prefix: str = "") -> None:
        """Forget the tensors under `name/` that start with `prefix`; all of them, with what is beside them, if none."""
        self.tensors = {key: value for key, value in self.tensors.items() if not key.startswith(f"{name}/{prefix}")}
        if not prefix:
            self.meta.pop(name, None)

    def add_nested(self, name: str, other: Checkpoint) -> None:
        """Keep another checkpoint, whole, under `name/`."""
        self.tensors |= {f"{name}/{key}": value for key, value in other.tensors.items()}
        self.meta[name] = other.meta

    def nested(self, name: str) -> Checkpoint | None:
        """Give it back; None where there is none."""
        if name not in self.meta:
            return None
        return Checkpoint(tensors_below(self.tensors, name), deepcopy(self.meta[name]))

    def add_optimizer(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        """Keep an optimizer's moments; its hyper-parameters come from the configuration."""
        plain: dict[str, dict[str, Any]] = {}
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    self.tensors[f"{name}/{index}/{key}"] = self._copied(value)
                else:
                    plain.setdefault(str(index), {})[key] = value
        self.meta[name] = plain

    def load_optimizer(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        """Give the moments back; those of rows that a parameter has got since are zero."""
        state: dict[int, dict[str, Any]] = {int(i): dict(v) for i, v in self.meta.get(name, {}).items()}
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for path, value in tensors_below(self.tensors, name).items():
            index, _, key = path.partition("/")
            state.setdefault(int(index), {})[key] = _grown(value, parameters[int(index)].shape)
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

    def to_bytes(self) -> bytes:
        """The same bytes for the same content."""
        return save(self._ordered(), metadata=self._metadata())

    def write(self, path: Path) -> None:
        """The same bytes into a file, from where the tensors lie. Raises OSError."""
        write_tensors(self._ordered(), path, self._metadata())

    def _ordered(self) -> dict[str, Tensor]:
        return {key: self.tensors[key] for key in sorted(self.tensors)}

    def _metadata(self) -> dict[str, str]:
        return {"meta": json.dumps(self.meta, sort_keys=True)}

    def _copied(self, value: Tensor) -> Tensor:
        """On the host, contiguous, with memory of its own: one copy, wherever it comes from."""
        return value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)

    @classmethod
    def from_bytes(cls, blob: bytes) -> Checkpoint:
        """Raises DataError for anything that to_bytes did not make."""
        try:
            return cls(tensors_of(blob), read_meta(blob))
        except (ValueError, RecursionError, SafetensorError) as error:
            raise DataError(f"not a readable state: {error}") from error

    @classmethod
    def mapped(cls, path: Path) -> Checkpoint:
        """The same from a file, whose tensors stay on disk until they are used. Raises DataError naming it."""
        try:
            with safe_open(path, framework="pt") as file:
                meta = json.loads((file.metadata() or {})["meta"])
            return cls(load_file(path), meta)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{path}: not a readable state: {error}") from error


class InPlace(Checkpoint):
    """A checkpoint of tensors where they lie: for who turns it into bytes before anything changes them.

    What lies on the host is not copied, but where two tensors share memory, which safetensors refuses.
    """

    def _copied(self, value: Tensor) -> Tensor:
        return value.detach().to("cpu").contiguous()

    def _ordered(self) -> dict[str, Tensor]:
        ordered, seen = super()._ordered(), set[int]()
        for key, value in ordered.items():
            lies_at = value.untyped_storage().data_ptr()
            if lies_at in seen:
                ordered[key] = value.clone()
            seen.add(lies_at)
        return ordered


class Snapshot(Checkpoint):
    """A checkpoint whose tensors may still be on their way from a GPU, which goes on training behind the copies.

    Nothing but `to_bytes` and `write` may read them: these wait. Up to _PINNED bytes are copied so; torch keeps pinned
    memory for the next snapshot, and a larger state would take too much of the host's.
    """

    _arrives: Any = None
    _pinned = 0

    def _copied(self, value: Tensor) -> Tensor:
        if value.device.type != "cuda" or self._pinned + value.nbytes > _PINNED:
            return super()._copied(value)
        self._pinned += value.nbytes
        pinned = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
        pinned.copy_(value.detach(), non_blocking=True)
        self._arrives = torch.cuda.current_stream(value.device).record_event()
        return pinned

    def _ordered(self) -> dict[str, Tensor]:
        if self._arrives is not None:
            self._arrives.synchronize()
        return super()._ordered()


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """A safetensors file, from where the tensors lie. Raises OSError, with the system's number where that is known."""
    try:
        save_file(dict(tensors), path, metadata=metadata)
    except SafetensorError as error:
        number = _OS_ERROR.search(str(error))
        raise OSError(int(number.group(1)) if number else None, str(error), str(path)) from None


def tensors_below(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors under `name/`, without that prefix."""
    return {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}


def _grown(moments: Tensor, shape: torch.Size) -> Tensor:
    """A copy, with rows of zeros up to the parameter's shape where only rows are missing."""
    if moments.dim() == 0 or moments.shape[1:] != shape[1:] or len(moments) >= shape[0]:
        return moments.clone()
    return torch.cat([moments, moments.new_zeros(shape[0] - len(moments), *shape[1:])])
