"""A worker process of an experiment: takes runs over a pipe, one after the other, and answers how each ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from fedafd.learning.feature_cache import keep_features
from fedafd.simulation.experiment import ExperimentConfig, RunKey
from fedafd.simulation.failures import Failure, failure_of, forget_failure
from fedafd.simulation.files import write_json
from fedafd.simulation.forecast import Forecast, WholeRun
from fedafd.simulation.run import run_one

__all__ = ["NOW", "Job", "Now", "serve"]

NOW = "now.json"
"""What a run at work does, in its folder."""
_WRITE_SECONDS, _WHOLE_SECONDS = 0.25, 5.0


class Now(NamedTuple):
    """What a run at work does."""

    round: int
    share: float
    """Of the run, that is done."""
    activity: str
    seconds_left: float | None = None
    whole_runs: Mapping[str, WholeRun] = {}
    """How long a run of each strategy takes, as far as this run's worker can know."""

    def to_json(self) -> dict[str, Any]:
        """As now.json holds it."""
        return self._asdict()

    @classmethod
    def from_json(cls, now: Mapping[str, Any]) -> Now:
        """From a now.json."""
        return cls(**{**now, "whole_runs": {name: WholeRun(*whole) for name, whole in now["whole_runs"].items()}})


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
    forecast = Forecast(experiment)
    while True:
        try:
            key = RunKey.model_validate(requests.recv())
        except EOFError:
            return
        failure = _work(experiment, key, job, forecast)
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


def _work(experiment: ExperimentConfig, key: RunKey, job: Job, forecast: Forecast) -> Failure | None:
    folder = Path(job.output) / key.folder
    written_at, whole_at = 0.0, 0.0
    whole_runs: Mapping[str, WholeRun] = {}

    def watch(number: int, share: float, activity: str) -> None:
        nonlocal written_at, whole_at, whole_runs
        now = time.monotonic()
        if now >= written_at + _WRITE_SECONDS:
            if now >= whole_at + _WHOLE_SECONDS:
                whole_runs, whole_at = forecast.whole_runs(), now
            at = Now(number, share, activity, forecast.seconds_left(), whole_runs)
            write_json(folder / NOW, at.to_json())
            written_at = time.monotonic()

    def tell(line: str) -> None:
        sys.stderr.write(f"{key.name}: {line}\n")

    try:
        folder.mkdir(parents=True, exist_ok=True)
        forget_failure(folder)
        output = Path(job.output)
        run_one(
            experiment,
            key,
            output,
            device=job.device,
            keep_models=job.keep_models,
            watch=watch,
            forecast=forecast,
            tell=tell,
        )
    except Exception as error:
        return failure_of(error, folder)
    finally:
        (folder / NOW).unlink(missing_ok=True)
    return None
