"""Training steps recorded once and replayed: on a GPU one CUDA graph stands for the hundreds of launches of a step.

Recorded is what a step asks of the device, with the memory that it reads and writes; what the host does around it is
not. So a batch is copied to where the recording reads it, and whatever changes from step to step has to be on the
device. A step that has to know something of the device on the host cannot be recorded, and is then run as it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from fedafd.telemetry.logging import get_logger

__all__ = ["RECORDERS", "NotRecordableError", "RecordedSteps", "Recorder", "recorder_for"]

B = TypeVar("B")
_WARM_UP = 3
"""Steps run as they are before one is recorded: optimizers make their moments, libraries choose their kernels."""
_WAITS = "called a synchronizing CUDA operation"
_log = get_logger(__name__)


class NotRecordableError(Exception):
    """What was asked of the device cannot be recorded; nothing of it was done."""


class Recorder(Protocol):
    """How a kind of device records."""

    def warm(self, work: Callable[[], Tensor]) -> tuple[Tensor, bool]:
        """Run `work` where it will be recorded: what it makes, and whether the host waited for the device."""

    def record(self, work: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], object]]:
        """Record `work`, which is not done. What it makes will lie in the tensor whenever the function was called.

        Raises NotRecordableError.
        """


class _Recording(NamedTuple):
    inputs: list[Tensor]
    loss: Tensor
    replay: Callable[[], object]


class RecordedSteps(Generic[B]):
    """`step` as a function of a batch, a tree of tensors; the batches of one form share a recording.

    Without a recorder it is the plain step. A batch's tensors on other devices are not read by `step`.
    """

    def __init__(
        self,
        step: Callable[[B], Tensor],
        recorder: Recorder | None,
        parameters: Sequence[nn.Parameter],
        device: torch.device,
    ) -> None:
        """`parameters`: all whose gradients the step makes. It makes a loss, a scalar."""
        self._step, self._recorder, self._parameters, self._device = step, recorder, parameters, device
        self._warm: dict[Any, int] = {}
        self._recordings: dict[Any, _Recording] = {}

    def __call__(self, batch: B) -> Tensor:
        """One step; its loss."""
        if self._recorder is None:
            return self._step(batch)
        leaves, form = tree_flatten(batch)
        inputs = [leaf for leaf in leaves if self._is_input(leaf)]
        key = str(form), tuple((tuple(leaf.shape), leaf.dtype) for leaf in inputs)
        if key not in self._recordings:
            if self._warm.get(key, 0) < _WARM_UP:
                return self._warmed(self._recorder, batch, key)
            if not self._recorded(self._recorder, batch, key):
                return self._step(batch)
        recording = self._recordings[key]
        for recorded, given in zip(recording.inputs, inputs, strict=True):
            recorded.copy_(given, non_blocking=True)
        recording.replay()
        return recording.loss.clone()

    def _is_input(self, leaf: Any) -> bool:
        return isinstance(leaf, Tensor) and leaf.device.type == self._device.type

    def _warmed(self, recorder: Recorder, batch: B, key: Any) -> Tensor:
        self._warm[key] = self._warm.get(key, 0) + 1
        loss, waited = recorder.warm(lambda: self._step(batch))
        if waited and self._warm[key] == _WARM_UP:
            self._give_up("the host waits for the device within a step")
        return loss

    def _recorded(self, recorder: Recorder, batch: B, key: Any) -> bool:
        copied = tree_map(lambda leaf: leaf.clone() if self._is_input(leaf) else leaf, batch)
        self._forget_gradients()  # so that the recording makes them in memory of its own
        try:
            loss, replay = recorder.record(lambda: self._step(copied))
        except NotRecordableError as error:
            self._give_up(str(error))
            return False
        finally:
            self._forget_gradients()
        inputs = [leaf for leaf in tree_flatten(copied)[0] if self._is_input(leaf)]
        self._recordings[key] = _Recording(inputs, loss, replay)
        return True

    def _forget_gradients(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def _give_up(self, reason: str) -> None:
        self._recorder = None
        _log.warning("step.not_recorded", reason=reason)


class _CudaRecorder:
    """Not run on a GPU by its authors: `graph` is off where nobody asks for it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def warm(self, work: Callable[[], Tensor]) -> tuple[Tensor, bool]:
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream), _recorded_waits() as waits:
            result = work()
        current.wait_stream(self._stream)
        result.record_stream(current)
        return result, bool(waits)

    def record(self, work: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], object]]:
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        try:
            # The errors of this thread alone: another one pins memory, or writes what is kept.
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                result = work()
        except RuntimeError as error:
            self._leave(before)
            raise NotRecordableError(str(error).strip().splitlines()[0]) from None
        return result, graph.replay

    def _leave(self, before: torch.cuda.Stream) -> None:
        """torch leaves three things as they were while it recorded, if that fails."""
        torch.cuda.set_stream(before)
        index = before.device_index
        generator = torch.cuda.default_generators[index]
        generator.graphsafe_set_state(generator.clone_state())
        torch._C._cuda_endAllocateToPool(index, self._pool)


@contextmanager
def _recorded_waits() -> Iterator[list[str]]:
    """What torch says of each time that the host waits for a GPU in here; filled when it is left."""
    mode, waits = torch.cuda.get_sync_debug_mode(), list[str]()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode(mode)
            waits += [str(warning.message) for warning in warned if _WAITS in str(warning.message)]


RECORDERS: dict[str, Callable[[torch.device], Recorder]] = {"cuda": _CudaRecorder}
"""By kind of device; where there is none, steps run as they are."""


def recorder_for(
    device: torch.device, *, wanted: bool, accumulate: int, compiled: bool, size: int = 1
) -> Recorder | None:
    """What records the steps on `device`: nothing on a CPU, or where it goes not with the rest, which the log tells."""
    if not wanted or device.type not in RECORDERS:
        return None
    for is_so, what in ((accumulate > 1, "accumulate"), (compiled, "compile"), (size > 1, "several processes")):
        if is_so:
            _log.warning("step.not_recorded", reason=f"a graph does not go with {what}")
            return None
    return RECORDERS[device.type](device)
