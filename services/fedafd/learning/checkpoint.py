"""Modules and optimizers as safetensors bytes and back. No pickle: tensors by path, the rest as JSON."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from fedafd.domain.errors import DataError

__all__ = ["Checkpoint", "tensors_below"]


@dataclass
class Checkpoint:
    """Tensors by path, and JSON values beside them."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    def add_module(self, name: str, module: torch.nn.Module) -> None:
        """Keep a module's parameters and buffers under `name/`."""
        for key, value in module.state_dict().items():
            self.tensors[f"{name}/{key}"] = value.detach().cpu().clone().contiguous()

    def load_module(self, name: str, module: torch.nn.Module) -> None:
        """Give them back. Raises DataError when they do not fit."""
        try:
            module.load_state_dict(tensors_below(self.tensors, name))
        except RuntimeError as error:
            raise DataError(f"state of {name} does not fit this configuration: {error}") from None

    def add_optimizer(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        """Keep an optimizer's moments; its hyper-parameters come from the configuration."""
        plain: dict[str, dict[str, Any]] = {}
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    self.tensors[f"{name}/{index}/{key}"] = value.detach().cpu().clone().contiguous()
                else:
                    plain.setdefault(str(index), {})[key] = value
        self.meta[name] = plain

    def load_optimizer(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        """Give the moments back."""
        state: dict[int, dict[str, Any]] = {int(i): dict(v) for i, v in self.meta.get(name, {}).items()}
        for path, value in tensors_below(self.tensors, name).items():
            index, _, key = path.partition("/")
            state.setdefault(int(index), {})[key] = value.clone()
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

    def to_bytes(self) -> bytes:
        """The same bytes for the same content."""
        ordered = {key: self.tensors[key] for key in sorted(self.tensors)}
        return save(ordered, metadata={"meta": json.dumps(self.meta, sort_keys=True)})

    @classmethod
    def from_bytes(cls, blob: bytes) -> Checkpoint:
        """Raises DataError for anything that to_bytes did not make."""
        try:
            (length,) = struct.unpack_from("<Q", blob)
            meta = json.loads(json.loads(blob[8 : 8 + length])["__metadata__"]["meta"])
            return cls(dict(load(blob)), meta)
        except (struct.error, ValueError, KeyError, TypeError) as error:
            raise DataError(f"not a readable state: {error}") from error


def tensors_below(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors under `name/`, without that prefix."""
    return {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
