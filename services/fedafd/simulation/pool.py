"""The runs of an experiment, spread over worker processes, each with its share of the cores.

Parent and workers speak over pipes, not through semaphores: nothing needs /dev/shm, and a worker that is killed takes
with it the run that it was at, and no other.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from pathlib import Path

from fedafd.domain.claims import claimed
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import Modality
from fedafd.learning.optimizers import choose_device
from fedafd.learning.process_start import training_processes
from fedafd.learning.tasks import find_task
from fedafd.learning.weights_check import WantedEncoder, check_encoders, encoders_of
from fedafd.simulation.data import data_prints
from fedafd.simulation.devices import device_names, least_used
from fedafd.simulation.experiment import ExperimentConfig, RunKey
from fedafd.simulation.failures import Failure, killed, note_failure
from fedafd.simulation.files import read_json
from fedafd.simulation.kept_runs import check_kept_runs
from fedafd.simulation.no_effect import settings_without_effect
from fedafd.simulation.run import SERVER_STAGES
from fedafd.simulation.worker import NOW, Job, Now, serve

__all__ = ["AtWork", "default_workers", "run_experiment"]

AtWork = dict[RunKey, Now]
_LOOK_SECONDS = 0.5
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_STOPPING = (signal.SIGINT, signal.SIGTERM)


def default_workers(runs: int, device: str) -> int:
    """As many as there are cores to run on, at most one per run; one per GPU where GPUs do the work."""
    gpus = _gpus()
    if device.startswith("cuda") or (device == "auto" and gpus):
        return max(1, min(len(device_names(device, gpus)), runs))
    return max(1, min(len(os.sched_getaffinity(0)), runs))


def run_experiment(
    experiment: ExperimentConfig,
    output: Path,
    *,
    workers: int,
    device: str = "auto",
    keep_models: bool = False,
    restart: bool = False,
    look: Callable[[AtWork], None] = lambda _: None,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[RunKey, str]:
    """Do all runs that are not done yet. Returns the reason of each run that failed; the others have a result.json.

    Of several devices (fedafd.simulation.devices) each worker keeps to one. They must be here, what `output` holds must
    be of the same configuration and data, or is set aside with `restart` (fedafd.simulation.kept_runs), pretrained
    weights must be there, encoders be possible and clients' tasks be known: ConfigurationError, DataError.

    A run that fails, or whose process is killed, leaves its reason (fedafd.simulation.failures) and the others go on;
    the same call tries it again. `look` is told twice a second what each run at work does; `tell` hears what else
    happens. Whatever ends this call ends the workers. Raises
    ConflictError while another simulation works in `output`.
    """
    for group in experiment.clients:
        if group.task is not None:
            find_task(group.task, group.kind)
    devices = device_names(device, _gpus())
    for name in devices:
        choose_device(name)
    failed: dict[RunKey, str] = {}
    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(threads)
    output.mkdir(parents=True, exist_ok=True)
    taken = f"--output {output}: another simulation is at work here; wait for it or choose another folder"
    with claimed(output / ".simulate.lock", taken):
        for note in check_kept_runs(experiment, output, data_prints(experiment), restart=restart):
            tell(f"note: {note}")
        for idle in settings_without_effect(experiment):
            tell(f"without effect: {idle}")
        todo = deque(key for key in experiment.runs() if not (output / key.folder / "result.json").exists())
        check_encoders(encoder for key in todo for encoder in _encoders(experiment, key))
        for key in todo:
            (output / key.folder / NOW).unlink(missing_ok=True)
        pool = _Pool(Job(experiment.model_dump_json(), str(output), devices[0], keep_models, threads), devices)
        try:
            while todo or pool.at_work:
                while todo and len(pool.at_work) < workers:
                    pool.begin(todo.popleft())
                for key, failure in pool.ended():
                    if failure is not None:
                        failed[key] = failure.reason
                        tell(f"{key.name}: failed: {failure.reason}")
                        note_failure(output / key.folder, failure)
                look(_at_work(output, pool.at_work))
        finally:
            pool.close()
        if not failed and not keep_models:
            shutil.rmtree(output / SERVER_STAGES, ignore_errors=True)
    return failed


def _encoders(experiment: ExperimentConfig, key: RunKey) -> list[WantedEncoder]:
    """Whatever a run makes: the server's and the clients' own."""
    federation = experiment.federation_config(key)
    wanted = encoders_of(federation)
    for index, group in enumerate(experiment.clients):
        given = ((group.image_encoder, Modality.IMAGE), (group.text_encoder, Modality.TEXT))
        wanted += [
            WantedEncoder(f"clients[{index}], {modality}_encoder", config, modality, federation.embedding_dim)
            for config, modality in given
            if config and modality in group.kind.modalities
        ]
    return wanted


class _Worker:
    """A process, and our end of the pipe to it."""

    def __init__(self, job: Job) -> None:
        self.device = job.device
        context = training_processes(choose_device(job.device).type)
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, job))
        self.process.start()
        theirs.close()

    def answer(self) -> Failure | None:
        """How its run ended; the process may have ended with it."""
        try:
            answered: Failure | None = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            return killed(self.process.exitcode)
        return answered


class _Pool:
    def __init__(self, job: Job, devices: Sequence[str]) -> None:
        self._job, self._devices = job, devices
        self._busy: dict[RunKey, _Worker] = {}
        self._idle: list[_Worker] = []

    @property
    def at_work(self) -> list[RunKey]:
        return list(self._busy)

    def begin(self, key: RunKey) -> None:
        """Give a run to a worker that waits, or to a new one."""
        with _signals_held():
            worker = self._free_worker()
            self._busy[key] = worker
        try:
            worker.pipe.send(key.model_dump())
        except OSError:
            return  # It is dead; `ended` tells.

    def _free_worker(self) -> _Worker:
        busy = [worker.device for worker in self._busy.values()]
        if not self._idle:
            return _Worker(self._job._replace(device=least_used(self._devices, busy)))
        wanted = least_used([worker.device for worker in self._idle], busy)
        worker = next(worker for worker in self._idle if worker.device == wanted)
        self._idle.remove(worker)
        return worker

    def ended(self) -> Iterator[tuple[RunKey, Failure | None]]:
        """Runs that ended within the next moment, and why if not well."""
        ready = wait([worker.pipe for worker in self._busy.values()], timeout=_LOOK_SECONDS)
        for key, worker in list(self._busy.items()):
            if worker.pipe not in ready:
                continue
            failure = worker.answer()
            del self._busy[key]
            if failure is None or failure.expected:
                self._idle.append(worker)
            else:
                _end([worker])
            yield key, failure

    def close(self) -> None:
        """End all workers, at once if they are at work: what they write is written whole or not at all."""
        _end([*self._busy.values(), *self._idle])


def _end(workers: Iterable[_Worker]) -> None:
    workers = list(workers)
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.join()
        worker.pipe.close()


@contextmanager
def _signals_held() -> Iterator[None]:
    """A Ctrl-C is heard only when the process that starts is known; it inherits the mask, and starts undisturbed."""
    resource_tracker.ensure_running()  # Its first start would lift the mask.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _at_work(output: Path, keys: Iterable[RunKey]) -> AtWork:
    at_work = {}
    for key in keys:
        try:
            now = read_json(output / key.folder / NOW)
        except DataError:
            continue
        at_work[key] = Now.from_json(now)
    return at_work


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
