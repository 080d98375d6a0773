"""Worker processes for an experiment's runs, each with its share of the cores."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from fedafd.domain.claims import claimed
from fedafd.domain.errors import FedafdError
from fedafd.simulation.experiment import ExperimentConfig, RunKey
from fedafd.simulation.run import SERVER_STAGES, run_one, write_json

__all__ = ["WorkerLostError", "default_workers", "run_experiment"]

_LOOK_SECONDS = 0.5
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class WorkerLostError(FedafdError):
    """A worker process of an experiment was killed."""

    code = "worker-lost"
    retryable = True


def default_workers(runs: int, device: str) -> int:
    """As many as there are cores to run on, at most one per run; one where a GPU does the work."""
    if device.startswith("cuda") or (device == "auto" and _has_gpu()):
        return 1
    return max(1, min(len(os.sched_getaffinity(0)), runs))


def run_experiment(
    experiment: ExperimentConfig,
    output: Path,
    *,
    workers: int,
    device: str = "auto",
    keep_models: bool = False,
    look: Callable[[dict[RunKey, tuple[int, float, str]]], None] = lambda _: None,
) -> dict[RunKey, str]:
    """Do all runs that are not done yet. Returns the reason of each run that failed; the others have a result.json.

    `look` is told twice a second what each run at work does: rounds begun, share of the round, words. Raises
    WorkerLostError when a worker was killed; the same call goes on from the last rounds that were kept. Raises
    ConflictError while another simulation works in `output`.
    """
    todo = [key for key in experiment.runs() if not (output / key.folder / "result.json").exists()]
    failed: dict[RunKey, str] = {}
    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(threads)
    context = multiprocessing.get_context("spawn")
    output.mkdir(parents=True, exist_ok=True)
    taken = f"--output {output}: another simulation is at work here; wait for it or choose another folder"
    with (
        claimed(output / ".simulate.lock", taken),
        ProcessPoolExecutor(workers, context, _start_worker, (threads,)) as pool,
    ):
        for key in todo:
            (output / key.folder / "now.json").unlink(missing_ok=True)
        arguments = (experiment.model_dump_json(), str(output), device, keep_models)
        pending = {pool.submit(_work, key.model_dump(), *arguments): key for key in todo}
        try:
            while pending:
                done, _ = wait(pending, timeout=_LOOK_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    key = pending.pop(future)
                    reason = future.result()
                    if reason is not None:
                        failed[key] = reason
                look(_at_work(output, list(pending.values())))
        except BrokenProcessPool:
            raise WorkerLostError(
                "a worker process was killed, perhaps for memory: run the same command again to go on, with fewer"
                " --workers if memory is short"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list((getattr(pool, "_processes", None) or {}).values()):
                process.terminate()
            raise
        if not failed and not keep_models:
            shutil.rmtree(output / SERVER_STAGES, ignore_errors=True)
    return failed


def _start_worker(threads: int) -> None:
    import signal

    import torch

    # Ctrl-C reaches the whole group; the parent ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)


def _end_with_parent() -> None:
    """A worker whose parent was killed would write into runs that the next command has taken up."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(key: dict[str, Any], experiment: str, output: str, device: str, keep_models: bool) -> str | None:
    """In a worker: one run. The reason if it failed."""
    run, config = RunKey.model_validate(key), ExperimentConfig.model_validate_json(experiment)
    folder = Path(output) / run.folder
    folder.mkdir(parents=True, exist_ok=True)

    def watch(number: int, fraction: float, activity: str) -> None:
        write_json(folder / "now.json", {"round": number, "fraction": fraction, "activity": activity})

    try:
        run_one(config, run, Path(output), device=device, keep_models=keep_models, watch=watch)
    except FedafdError as error:
        return str(error)
    except OSError as error:
        return (
            f"{error.filename or folder}: {error.strerror}; mend it, and the same command goes on from the last round"
        )
    finally:
        (folder / "now.json").unlink(missing_ok=True)
    return None


def _at_work(output: Path, keys: list[RunKey]) -> dict[RunKey, tuple[int, float, str]]:
    found = {}
    for key in keys:
        place = output / key.folder / "now.json"
        try:
            now = json.loads(place.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        found[key] = (int(now["round"]), float(now["fraction"]), str(now["activity"]))
    return found


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
