"""Batches made ready one ahead of the step that takes them, on a stream of a GPU beside the one that trains.

A stream is a queue: what is put into one runs in order, and beside what is put into another. So copies to the GPU,
gathers and augmentation of the next batch run while the step before computes. Where there are no streams a batch is
made when it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

__all__ = ["Streams", "ahead"]

T = TypeVar("T")


class Streams(Protocol):
    """A stream that trains, current when it is asked for, and one beside it."""

    def beside(self) -> AbstractContextManager[Any]:
        """What is asked of the device in here goes to the stream beside."""

    def follow(self) -> None:
        """The stream beside waits for what the one that trains was given so far."""

    def mark(self) -> Any:
        """What the stream beside was given so far, as one event."""

    def wait(self, mark: Any) -> None:
        """The stream that trains waits for that event; the host does not."""

    def takes(self, tensor: Tensor) -> None:
        """The stream that trains uses a tensor of the other: its memory stays until it has done so."""


def ahead(source: Iterator[T], device: torch.device, streams: Streams | None = None) -> Iterator[T]:
    """The batches of `source`, each a tree of tensors, the next one made ready before one is handed out.

    So what `source` draws is drawn one batch ahead on a GPU: who keeps the state of its generator keeps the one that
    came with the batch.
    """
    if streams is None and device.type == "cuda":
        streams = _cuda_streams(device)
    if streams is None:
        yield from source
        return
    streams.follow()
    ready = _next_batch(source, streams)
    while ready is not None:
        batch, mark = ready
        streams.wait(mark)
        for tensor in tree_leaves(batch):
            if isinstance(tensor, Tensor) and tensor.device.type == device.type:
                streams.takes(tensor)
        ready = _next_batch(source, streams)
        yield batch


def _next_batch(source: Iterator[T], streams: Streams) -> tuple[T, Any] | None:
    with streams.beside():
        for batch in source:
            return batch, streams.mark()
    return None


@lru_cache
def _cuda_streams(device: torch.device) -> _CudaStreams:
    """One pair for each GPU: memory that a stream allocated is its own."""
    return _CudaStreams(device)


class _CudaStreams:
    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side = torch.cuda.Stream(device)

    def beside(self) -> AbstractContextManager[Any]:
        return torch.cuda.stream(self._side)

    def follow(self) -> None:
        self._side.wait_stream(torch.cuda.current_stream(self._device))

    def mark(self) -> Any:
        return self._side.record_event()

    def wait(self, mark: Any) -> None:
        torch.cuda.current_stream(self._device).wait_event(mark)

    def takes(self, tensor: Tensor) -> None:
        tensor.record_stream(torch.cuda.current_stream(self._device))
