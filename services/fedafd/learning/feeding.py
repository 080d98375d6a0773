"""Batches of rows on their way to the device: on a GPU the next ones are read and pinned while one is computed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

__all__ = ["batches"]

_AHEAD = 2


def batches(rows: Tensor, size: int, device: torch.device) -> Iterator[Tensor]:
    """All rows in order, `size` at a time, on `device`.

    On the CPU a batch is a view of `rows`: nothing is copied, and memory-mapped pages are read when they are used.
    """
    starts = range(0, len(rows), size)
    if device.type != "cuda":
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
