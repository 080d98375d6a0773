"""Rows on their way to the device: what fits is kept there, and the host does not wait for what is sent to a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from fedafd.learning.ahead import ahead

__all__ = ["after_batches", "batches", "batches_worked", "encode_batch", "gathered", "resident", "sent"]

_AHEAD = 2
_BATCH, _BATCH_ON_GPU, _LEAST_ON_GPU = 128, 1024, 32
_borne: dict[str, int] = {}
"""By kind of device the samples that its memory bore, where that were fewer than encode_batch."""
_hearing: ContextVar[Callable[[], None]] = ContextVar("hearing", default=lambda: None)
_SHARE_OF_FREE = 0.25
"""Of a GPU's free memory, for one split's pixels or tokens; the rest is for training."""


def batches(rows: Tensor, size: int, device: torch.device) -> Iterator[Tensor]:
    """All rows in order, `size` at a time, on `device`.

    Of rows that are there already, and on the CPU, a batch is a view: nothing is copied, and memory-mapped pages are
    read when they are used. For a GPU the next batches are read, pinned and sent while one is computed.
    """
    starts = range(0, len(rows), size)
    if device.type != "cuda" or rows.device.type == "cuda":
        return (rows[start : start + size].to(device) for start in starts)
    return ahead((pinned.to(device, non_blocking=True) for pinned in _pinned(rows, size)), device)


def _pinned(rows: Tensor, size: int) -> Iterator[Tensor]:
    with ThreadPoolExecutor(1, "feeding") as reader:
        waiting: list[Future[Tensor]] = []
        for start in range(0, len(rows), size):
            waiting.append(reader.submit(lambda at: rows[at : at + size].pin_memory(), start))
            if len(waiting) > _AHEAD:
                yield waiting.pop(0).result()
        for pinned in waiting:
            yield pinned.result()


def encode_batch(device: torch.device) -> int:
    """Samples that are encoded at once where nothing is trained: many on a GPU, which small batches leave idle."""
    return _BATCH_ON_GPU if device.type == "cuda" else _BATCH


def batches_worked(work: Callable[[Tensor], Tensor], rows: Tensor, device: torch.device) -> Tensor:
    """What `work` makes of all rows, in batches on `device`: `encode_batch` samples, or what its memory bears."""
    while True:
        size = min(encode_batch(device), _borne.get(device.type, encode_batch(device)))
        try:
            return torch.cat([_worked(work, batch) for batch in batches(rows, size, device)])
        except torch.OutOfMemoryError:
            if device.type == "cpu" or size <= _LEAST_ON_GPU:
                raise
            _borne[device.type] = size // 2


@contextmanager
def after_batches(hear: Callable[[], None]) -> Iterator[None]:
    """`hear` is called after each batch of `batches_worked`; what it raises ends the work."""
    token = _hearing.set(hear)
    try:
        yield
    finally:
        _hearing.reset(token)


def _worked(work: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    result = work(batch)
    _hearing.get()()
    return result


def sent(rows: Tensor, device: torch.device) -> Tensor:
    """`rows` on `device`, without waiting for a GPU to take them: from pinned memory it copies in its own time."""
    if rows.device.type == device.type or device.type in ("cpu", "mps"):
        return rows.to(device)
    return (rows.pin_memory() if device.type == "cuda" else rows).to(device, non_blocking=True)


def resident(rows: Tensor, device: torch.device) -> Tensor:
    """`rows` moved to `device` once, if it has memory of its own and room for them; else as they are."""
    if device.type in ("cpu", "mps"):
        return rows
    if device.type == "cuda" and rows.nbytes > _SHARE_OF_FREE * torch.cuda.mem_get_info(device)[0]:
        return rows
    return rows.to(device)


def gathered(rows: Tensor, which: Tensor) -> Tensor:
    """Rows `which`, drawn on the host, where `rows` are."""
    return rows[sent(which, rows.device)]
