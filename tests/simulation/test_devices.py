"""Workers of an experiment are spread over its devices, and each keeps to one."""

from __future__ import annotations

from collections import Counter
from multiprocessing.connection import Connection

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedafd.domain.errors import ConfigurationError
from fedafd.simulation import pool as pool_module
from fedafd.simulation.devices import check_devices, device_names, least_used
from fedafd.simulation.experiment import RunKey
from fedafd.simulation.failures import Failure
from fedafd.simulation.pool import default_workers
from fedafd.simulation.worker import Job


@pytest.mark.parametrize(
    ("text", "gpus", "wanted"),
    [
        ("auto", 0, ["auto"]),
        ("auto", 1, ["auto"]),
        ("auto", 3, ["cuda:0", "cuda:1", "cuda:2"]),
        ("cuda", 3, ["cuda"]),
        ("cuda:2", 3, ["cuda:2"]),
        ("cuda:1,cuda:0,cuda:01", 3, ["cuda:1", "cuda:0"]),
        ("cpu", 3, ["cpu"]),
    ],
)
def test_a_name_stands_for_these_devices(text: str, gpus: int, wanted: list[str]) -> None:
    assert device_names(text, gpus) == wanted


@pytest.mark.parametrize("text", ["", "gpu", "cuda:0,", "cuda:0,cpu", "cuda,cuda:1", "cuda:0 cuda:1", "auto,cuda:0"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--device"):
        check_devices(text)


@settings(max_examples=30, deadline=None)
@given(devices=st.integers(1, 5), workers=st.integers(0, 20))
def test_workers_are_spread_evenly(devices: int, workers: int) -> None:
    names = [f"cuda:{index}" for index in range(devices)]
    used: list[str] = []
    for _ in range(workers):
        used.append(least_used(names, used))
    counts = Counter(used)
    assert max(counts[name] for name in names) - min(counts[name] for name in names) <= 1


def test_there_is_one_worker_per_gpu_and_none_without_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "_gpus", lambda: 4)
    assert [default_workers(runs, "auto") for runs in (2, 9)] == [2, 4]
    assert [default_workers(9, device) for device in ("cuda", "cuda:3", "cuda:0,cuda:2")] == [1, 1, 2]


def tell_device(requests: Connection, job: Job) -> None:
    """A worker that answers each run with its device."""
    while True:
        try:
            requests.recv()
        except EOFError:
            return
        requests.send(Failure(job.device, expected=True))


def test_processes_keep_to_the_device_they_got(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "serve", tell_device)
    monkeypatch.setattr(pool_module, "choose_device", torch.device)  # this machine need not have the GPUs
    pool = pool_module._Pool(Job("", "", "cuda:0", False, 1), ["cuda:0", "cuda:1"])
    rounds = []
    try:
        for _ in range(2):
            keys = [RunKey(scenario="iid", strategy=name, seed=0) for name in ("a", "b")]
            for key in keys:
                pool.begin(key)
            answers: list[str] = []
            while pool.at_work:
                answers += [failure.reason for _, failure in pool.ended() if failure is not None]
            rounds.append(sorted(answers))
    finally:
        pool.close()
    assert rounds == [["cuda:0", "cuda:1"]] * 2
