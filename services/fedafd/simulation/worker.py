"""A worker process of an experiment: takes runs over a pipe, one after the other, and answers how each ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from fedafd.learning.feature_cache import keep_features
from fedafd.simulation.experiment import ExperimentConfig, RunKey
from fedafd.simulation.failures import Failure, failure_of, forget_failure
from fedafd.simulation.files import write_json
from fedafd.simulation.run import run_one

__all__ = ["NOW", "Job", "serve"]

NOW = "now.json"
"""What a run at work does, in its folder."""
_WRITE_SECONDS = 0.25


class Job(NamedTuple):
    """What all runs of a worker have in common."""

    experiment: str
    """ExperimentConfig as JSON."""
    output: str
    device: str
    keep_models: bool
    threads: int


def serve(requests: Connection, job: Job) -> None:
    """Answer each run's name with None, or with its Failure, until the pipe is closed.

    After a failure that nobody foresaw the process ends: a GPU, or a library's state, may be broken.
    """
    _prepare(job.threads, job.device)
    keep_features(Path(job.output) / "features")
    experiment = ExperimentConfig.model_validate_json(job.experiment)
    while True:
        try:
            key = RunKey.model_validate(requests.recv())
        except EOFError:
            return
        failure = _work(experiment, key, job)
        requests.send(failure)
        if failure is not None and not failure.expected:
            return


def _prepare(threads: int, device: str) -> None:
    # Ctrl-C reaches the whole group; the parent, which started us with both signals held, ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    threading.Thread(target=_end_with_parent, daemon=True).start()

    import torch

    torch.set_num_threads(threads)
    if device.startswith("cuda:"):
        # What names no index (cuda alone, a library) must not open a second GPU.
        torch.cuda.set_device(device)


def _end_with_parent() -> None:
    """A worker whose parent was killed would write into runs that the next command has taken up."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(experiment: ExperimentConfig, key: RunKey, job: Job) -> Failure | None:
    folder = Path(job.output) / key.folder
    written_at = 0.0

    def watch(number: int, fraction: float, activity: str) -> None:
        nonlocal written_at
        if time.monotonic() >= written_at + _WRITE_SECONDS:
            write_json(folder / NOW, {"round": number, "fraction": fraction, "activity": activity})
            written_at = time.monotonic()

    def tell(line: str) -> None:
        sys.stderr.write(f"{key.name}: {line}\n")

    try:
        folder.mkdir(parents=True, exist_ok=True)
        forget_failure(folder)
        output = Path(job.output)
        run_one(experiment, key, output, device=job.device, keep_models=job.keep_models, watch=watch, tell=tell)
    except Exception as error:
        return failure_of(error, folder)
    finally:
        (folder / NOW).unlink(missing_ok=True)
    return None
