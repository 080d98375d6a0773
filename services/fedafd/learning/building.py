"""How large a network may become while it is made: a description of a few bytes may name one of terabytes.

What is made is counted as it is registered, tensor by tensor, before it is filled. So whoever named the sizes, making
stops long before the memory is full.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from fedafd.domain.errors import ConfigurationError

__all__ = ["Room", "RoomError", "memory_bytes", "room_beside", "room_here", "within"]

_CONTAINER_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_BYTES_OF_A_NUMBER = 8
"""Float32, and as much again for all else."""
_TIMES = 2
"""Some families register a tensor twice, or one that they do not save."""
_MORE_NUMBERS, _MORE_TENSORS = 2**20, 1000
_OTHER_HALF = 400_000_000
"""Numbers of a dual encoder's other half, which is made and left out: large vocabularies in one layer."""
_MOST_TENSORS = 100_000
_UNKNOWN_MEMORY = 2**34


class RoomError(ConfigurationError):
    """A network is larger than there is room for."""


class Room(NamedTuple):
    """Numbers and tensors that may be made, and what says so."""

    numbers: int
    tensors: int
    why: str


def room_here() -> Room:
    """For a network that nothing but this machine's memory bounds."""
    memory = memory_bytes() or _UNKNOWN_MEMORY
    return Room(memory // _BYTES_OF_A_NUMBER, _MOST_TENSORS, f"fits into {memory / 2**30:.1f} GiB of memory")


def room_beside(weights: Mapping[str, Tensor], *, is_half: bool) -> Room:
    """For one whose weights are there; `is_half`: of a dual encoder, both halves of which are made."""
    stored = sum(tensor.numel() for tensor in weights.values())
    numbers = _TIMES * stored + _MORE_NUMBERS + (_OTHER_HALF if is_half else 0)
    return Room(numbers, _TIMES * len(weights) + _MORE_TENSORS, f"is in its weights, which hold {stored:,} numbers")


@contextmanager
def within(room: Room) -> Iterator[None]:
    """Raise RoomError as soon as what this thread makes inside is more than there is room for, whatever libraries make
    of it on its way."""
    maker, numbers, tensors = threading.get_ident(), 0, 0
    excess: RoomError | None = None

    def count(_: Any, __: str, tensor: Tensor | None) -> None:
        nonlocal numbers, tensors, excess
        if tensor is None or threading.get_ident() != maker:
            return
        numbers, tensors = numbers + tensor.numel(), tensors + 1
        if numbers > room.numbers or tensors > room.tensors:
            excess = RoomError(
                f"its sizes make a network of {numbers:,} numbers in {tensors:,} tensors, and more were to"
                f" come; that is more than {room.why}"
            )
            raise excess

    with ExitStack() as stack:
        for register in (register_module_parameter_registration_hook, register_module_buffer_registration_hook):
            stack.callback(register(count).remove)
        try:
            yield
        except Exception:
            if excess is None:
                raise
        if excess is not None:
            raise excess


def memory_bytes() -> int | None:
    """What this process may use: the machine's memory, or less where a container says so."""
    limits = []
    if "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for limit in _CONTAINER_LIMITS:
        try:
            limits.append(int(limit.read_text()))
        except (OSError, ValueError):
            continue
    return min(limits, default=None)
