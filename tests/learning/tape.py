"""Records what is asked of the device that stands in for a GPU, and asks it again: what a CUDA graph promises.

As there, what is recorded is not done; a replay reads and writes the memory of the recording; what the host computes,
and every number that it gave, is not computed again; random numbers are drawn anew; and an answer that the host waits
for, or a copy between it and the device, cannot be recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from benchmarks.device_operators import DeviceOperators
from benchmarks.operands import leaves
from benchmarks.stand_in import Placed, _run
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from fedafd.learning.recorded_steps import NotRecordableError

__all__ = ["TapeRecorder"]


_WRITTEN_UNTOLD = {"running_mean", "running_var"}


class _WaitsError(Exception):
    pass


class TapeRecorder:
    """A Recorder of the stand-in."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def warm(self, work: Callable[[], Tensor]) -> tuple[Tensor, bool]:
        with DeviceOperators(self._device) as counted:
            made = work()
        return made, bool(counted.syncs)

    def record(self, work: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], object]]:
        tape, random = _Tape(self._device), torch.get_rng_state()
        try:
            with tape:
                made = work()
        except _WaitsError as error:
            raise NotRecordableError(str(error)) from None
        finally:
            torch.set_rng_state(random)
            tape.undo()
        return made, tape.replay


class _Tape(TorchDispatchMode):
    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counts = DeviceOperators(device)
        self._calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self._born: set[int] = set()
        self._overwritten: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Placed)]
        if func._schema.is_mutable or "batch_norm" in func.overloadpacket.__name__:
            self._note(func, args, kwargs)
        out = func(*args, **kwargs)
        made = [leaf for leaf in leaves(out) if isinstance(leaf, Placed)]
        if not given and not made:
            return out
        name = func.overloadpacket.__name__
        tensors = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if self._counts._waits(name, tensors, out, args, kwargs):
            raise _WaitsError(f"{name} waits for the device")
        if name in ("copy_", "_to_copy") and any(not isinstance(leaf, Placed) for leaf in [*tensors, *leaves(out)]):
            raise _WaitsError(f"{name} between host and device")
        known = {_storage(leaf) for leaf in given}
        self._born |= {_storage(leaf) for leaf in made} - known
        if not func.is_view:
            self._calls.append((func, args, kwargs, out))
        return out

    def _note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for place, argument in enumerate(func._schema.arguments):
            is_told = argument.alias_info is not None and argument.alias_info.is_write
            if not is_told and argument.name not in _WRITTEN_UNTOLD:
                continue
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            for leaf in leaves(value):
                if isinstance(leaf, Placed) and _storage(leaf) not in self._born:
                    self._overwritten.append((leaf.raw, leaf.raw.clone()))

    def undo(self) -> None:
        with _disable_current_modes(), torch.no_grad():
            for raw, before in reversed(self._overwritten):
                raw.copy_(before)

    def replay(self) -> None:
        with _disable_current_modes(), torch.no_grad():
            for func, args, kwargs, out in self._calls:
                again = _run(func, args, kwargs)
                for held, new in zip(leaves(out), leaves(again), strict=True):
                    if isinstance(held, Placed) and held is not new:
                        held.raw.copy_(new.raw)


def _storage(leaf: Placed) -> int:
    return int(leaf.raw.untyped_storage()._cdata)
