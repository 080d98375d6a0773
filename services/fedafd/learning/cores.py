"""How many CPU threads torch takes for a piece of work, set for the thread that does it and put back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["cores"]


@contextmanager
def cores(count: int) -> Iterator[None]:
    """Let the calling thread compute on `count` threads inside the block.

    Threads that start meanwhile begin with this number, so each says its own.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
