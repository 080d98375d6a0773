"""Counting what a step asks of a device: operators that compute, and points where the host waits for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.operands import leaves

__all__ = ["DeviceOperators"]

_ANSWERS = {
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}
"""Their result, or its shape, has to be known on the host: `.item()`, `bool(tensor)`, a mask as an index."""

_COPIES = {"_to_copy", "copy_"}
_LAUNCH_NOTHING = {
    "_unsafe_view",
    "detach",
    "empty",
    "empty_like",
    "empty_strided",
    "lift_fresh",
    "new_empty",
    "new_empty_strided",
}


class DeviceOperators(TorchDispatchMode):
    """While it is entered: `operators` on tensors of `device` and `syncs` of the host with it, by name.

    Views launch nothing and do not count. A copy between host and device waits unless it is `non_blocking`, which is
    only so of pinned memory; feeding.sent takes care of that. On a CPU every tensor is the device's, so that what
    would wait on a GPU counts, and so does what reads the host's own draws.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.operators: Counter[str] = Counter()
        self.syncs: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        given = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not any(self._holds(leaf) for leaf in [*given, *leaves(made)]):
            return made
        if not func.is_view and name not in _LAUNCH_NOTHING:
            self.operators[name] += 1
        if self._waits(name, given, made, args, kwargs):
            self.syncs[name] += 1
        return made

    def _waits(self, name: str, given: list[Tensor], made: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if name in _ANSWERS:
            return any(self._holds(leaf) for leaf in given)
        if name in _COPIES:
            ends = given[:2] if name == "copy_" else [given[0], made]
            blocks = not (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
            return blocks and self._holds(ends[0]) != self._holds(ends[1])
        if name in ("index", "index_put_", "_index_put_impl_"):
            chosen = [index for index in args[1] if index is not None]
            return any(index.dtype == torch.bool or not self._holds(index) for index in chosen)
        return name == "repeat_interleave" and kwargs.get("output_size") is None

    def _holds(self, leaf: Any) -> bool:
        return isinstance(leaf, Tensor) and leaf.device.type == self.device.type
