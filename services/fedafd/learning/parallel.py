"""Data-parallel training on one machine: one process per GPU (nccl), or per share of the CPU's cores (gloo).

Every process draws the same batches and encodes its slice of each. Features are gathered, so that a loss over all
pairs of the batch is the single process's loss; torch's DistributedDataParallel sums the encoders' gradients.
Shape legend: B rows of the whole batch, b of one process's slice, D embedding dimension.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes
from torch.nn.parallel import DistributedDataParallel

from fedafd.domain.errors import ConfigurationError, FedafdError
from fedafd.domain.process_errors import DivergedError, WorkerLostError
from fedafd.learning.batch_norm import synchronise
from fedafd.learning.process_start import training_processes

__all__ = ["ALONE", "Group", "Processes", "Work", "number_of_processes", "run_in_processes"]

Progress = Callable[[float, str], None]
Processes = int | Literal["auto"]
_POLL_SECONDS = 0.5
_SILENT_PEER = timedelta(minutes=30)


@dataclass(frozen=True)
class Group:
    """This process's place among `size` processes that train one model."""

    rank: int = 0
    size: int = 1

    def slice(self, rows: Any) -> Any:
        """This process's rows of a batch; the batch divides evenly."""
        share = len(rows) // self.size
        return rows[self.rank * share : (self.rank + 1) * share]

    def wrap(self, encoder: nn.Module, device: torch.device) -> nn.Module:
        """The encoder to call in training: its gradients come out summed over the processes."""
        if self.size == 1:
            return encoder
        synchronise(encoder, device)
        # A backbone may hold layers behind what we read of it (a pooler): they get no gradient.
        ids = [device] if device.type == "cuda" else None
        return DistributedDataParallel(
            encoder, device_ids=ids, broadcast_buffers=False, find_unused_parameters=True, gradient_as_bucket_view=True
        )

    def gathered(self, rows_bD: Tensor) -> Tensor:
        """All processes' rows [B, D] in order; the gradient reaches this process's own."""
        if self.size == 1:
            return rows_bD
        parts = [torch.empty_like(rows_bD) for _ in range(self.size)]
        dist.all_gather(parts, rows_bD.detach().contiguous())
        # Each process computes the loss of the whole batch: its own rows' gradient is exact, and the encoders' is the
        # sum over processes, of which DistributedDataParallel makes the mean.
        own_bD = rows_bD.view_as(rows_bD)
        if own_bD.requires_grad:
            own_bD.register_hook(lambda gradient: gradient * self.size)
        parts[self.rank] = own_bD
        return torch.cat(parts)

    def averaged(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give parameters that every process computes alike the very same gradient."""
        for parameter in parameters if self.size > 1 else ():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= self.size


ALONE = Group()


def number_of_processes(wanted: Processes, device: torch.device, batch_size: int) -> int:
    """How many processes train: `auto` is one per GPU, as far as the batch divides. Raises ConfigurationError."""
    gpus = torch.cuda.device_count() if device.type == "cuda" and device.index is None else 1
    if wanted == "auto":
        return max(number for number in range(1, gpus + 1) if batch_size % number == 0)
    if batch_size % wanted:
        raise ConfigurationError(f"processes: {wanted} do not share a batch of {batch_size} evenly; choose a divisor")
    if device.type != "cpu" and wanted > gpus:
        raise ConfigurationError(f"processes: {wanted}, but {gpus} GPUs are to be used (device: {device})")
    return wanted


Work = Callable[[Group, torch.device, Path, Progress], None]
"""What each process does: a top-level function that reads its inputs from the folder; rank 0 leaves results there."""


def run_in_processes(work: Work, size: int, device: torch.device, folder: Path, progress: Progress) -> None:
    """Run `work` in `size` fresh processes and wait. `progress` hears of steps, and may raise to stop them all.

    Raises what the work raised, if it is one of ours; WorkerLostError when a process died. No process is left behind.
    """
    context = training_processes(device.type)
    queue: Any = context.SimpleQueue()
    threads = max(1, torch.get_num_threads() // size)
    with tempfile.TemporaryDirectory(prefix="fedafd-group-") as meeting:
        arguments = (work, size, device.type, folder, Path(meeting), threads, queue)
        start = context.get_start_method()
        running: Any = start_processes(_enter, arguments, nprocs=size, join=False, start_method=start)
        try:
            while not running.join(timeout=_POLL_SECONDS):
                while not queue.empty():
                    progress(*queue.get())
        except (ProcessRaisedException, ProcessExitedException) as error:
            raise _reason(Path(meeting), error) from None
        finally:
            for process in running.processes:
                if process.is_alive():
                    process.kill()
                process.join()
            queue.close()


def _enter(rank: int, work: Work, size: int, kind: str, folder: Path, meeting: Path, threads: int, queue: Any) -> None:
    device = torch.device(kind, rank) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(threads)
    # Processes meet in a file: no port is opened.
    dist.init_process_group(
        "nccl" if kind == "cuda" else "gloo",
        init_method=f"file://{meeting / 'meeting'}",
        rank=rank,
        world_size=size,
        timeout=_SILENT_PEER,
    )
    try:
        work(Group(rank, size), device, folder, lambda *step: queue.put(step) if rank == 0 else None)
    except FedafdError as error:
        (meeting / f"error-{rank}.json").write_text(json.dumps([error.code, str(error)]), encoding="utf-8")
        raise
    finally:
        dist.destroy_process_group()


def _reason(meeting: Path, error: Exception) -> Exception:
    kinds = {kind.code: kind for kind in (DivergedError, ConfigurationError)}
    for path in sorted(meeting.glob("error-*.json")):
        code, text = json.loads(path.read_text(encoding="utf-8"))
        return kinds.get(code, FedafdError)(text)
    lines = str(error).strip().splitlines()
    return WorkerLostError(f"a training process ended before its work was done: {lines[-1] if lines else error}")
