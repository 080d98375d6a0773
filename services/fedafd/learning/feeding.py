"""Rows on their way to the device: what fits is kept there, and the host does not wait for what is sent to a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

__all__ = ["batches", "gathered", "resident", "sent"]

_AHEAD = 2
_SHARE_OF_FREE = 0.25
"""Of a GPU's free memory, for one split's pixels or tokens; the rest is for training."""


def batches(rows: Tensor, size: int, device: torch.device) -> Iterator[Tensor]:
    """All rows in order, `size` at a time, on `device`.

    Of rows that are there already, and on the CPU, a batch is a view: nothing is copied, and memory-mapped pages are
    read when they are used. For a GPU the next batches are read and pinned while one is computed.
    """
    starts = range(0, len(rows), size)
    if device.type != "cuda" or rows.device.type == "cuda":
        yield from (rows[start : start + size].to(device) for start in starts)
        return
    with ThreadPoolExecutor(1, "feeding") as reader:
        waiting: list[Future[Tensor]] = []
        for start in starts:
            waiting.append(reader.submit(lambda at: rows[at : at + size].pin_memory(), start))
            if len(waiting) > _AHEAD:
                yield waiting.pop(0).result().to(device, non_blocking=True)
        for pinned in waiting:
            yield pinned.result().to(device, non_blocking=True)


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
