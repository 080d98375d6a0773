"""Data-parallel training on the CPU: two processes make what one makes, fail with its errors, and stop when told."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from tests.learning.tiny import NORMLESS_IMAGE, tiny_federation, tiny_public
from torch import nn

from fedafd.domain.config import FederationConfig
from fedafd.domain.errors import ConfigurationError, FedafdError
from fedafd.domain.process_errors import DivergedError, WorkerLostError
from fedafd.learning.checkpoint import Checkpoint
from fedafd.learning.parallel import Group, number_of_processes, run_in_processes
from fedafd.learning.server_round import Prepared, distil, initial_server_state, prepare

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def public() -> Any:
    return tiny_public()["train"]


def prepared(config: FederationConfig, public: Any, processes: int) -> Prepared:
    state = initial_server_state(config=config, captions=public.captions, seed=3)
    return prepare(config=config, state=state, public=public, round_number=1, seed=4, device="cpu", processes=processes)


def assert_close(one: bytes, two: bytes) -> None:
    left, right = Checkpoint.from_bytes(one).tensors, Checkpoint.from_bytes(two).tensors
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(right[name], tensor, atol=2e-5, rtol=2e-4, msg=partial("{}: {}".format, name))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"image_encoder": NORMLESS_IMAGE, "server": {"accumulate": 2}},
    ],
    ids=["batch norm", "no batch norm, accumulating"],
)
def test_two_processes_train_what_one_trains(changes: dict[str, object], public: Any) -> None:
    config = tiny_federation(**changes)
    one, two = prepared(config, public, 1), prepared(config, public, 2)
    assert_close(one.state, two.state)
    for modality, reps in one.representations.items():
        np.testing.assert_allclose(two.representations[modality], reps, atol=1e-4)


def test_two_processes_distil_what_one_distils(public: Any) -> None:
    config = tiny_federation()
    made = prepared(config, public, 1)
    aggregates = {m: np.roll(rows, 1, axis=0) for m, rows in made.representations.items()}
    states = [
        distil(
            config=config,
            state=made.state,
            public=public,
            representations=made.representations,
            aggregates=aggregates,
            round_number=1,
            seed=6,
            device="cpu",
            processes=processes,
        )
        for processes in (1, 2)
    ]
    assert states[0] != made.state
    assert_close(*states)


def test_an_error_of_ours_comes_out_as_itself(public: Any) -> None:
    with pytest.raises(DivergedError, match="lower the learning rate"):
        prepared(tiny_federation(server={"learning_rate": 1e30, "clip_norm": 1e30}), public, 2)


def _die(group: Group, device: torch.device, folder: Path, progress: Any) -> None:
    if group.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    torch.distributed.barrier()


def test_a_killed_process_ends_the_others_and_may_be_tried_again(tmp_path: Path) -> None:
    with pytest.raises(WorkerLostError, match="SIGKILL") as caught:
        run_in_processes(_die, 2, CPU, tmp_path, lambda _, __: None)
    assert caught.value.retryable
    assert not [child for child in started_processes() if child.status() != psutil.STATUS_ZOMBIE]


def started_processes() -> list[psutil.Process]:
    """The forks of this process's fork server."""
    return [
        fork
        for child in psutil.Process().children()
        if "forkserver" in " ".join(child.cmdline())
        for fork in child.children()
    ]


def _report_for_ever(group: Group, device: torch.device, folder: Path, progress: Any) -> None:
    while True:
        progress(0.5, "at work")
        torch.distributed.barrier()


def test_progress_that_raises_stops_every_process(tmp_path: Path) -> None:
    def told(fraction: float, activity: str) -> None:
        assert (fraction, activity) == (0.5, "at work")
        raise FedafdError("stop")

    with pytest.raises(FedafdError, match="stop"):
        run_in_processes(_report_for_ever, 2, CPU, tmp_path, told)


def test_processes_must_share_the_batch_evenly() -> None:
    assert number_of_processes("auto", CPU, 64) == 1
    assert number_of_processes(4, CPU, 64) == 4
    with pytest.raises(ConfigurationError, match="3 processes|processes: 3"):
        number_of_processes(3, CPU, 64)


def _shared_norm(group: Group, device: torch.device, folder: Path, progress: Any) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(12, 3, 4, 4, dtype=torch.float64).float()
    weights = torch.randn(12, 3, 4, 4)
    model = nn.Sequential(nn.BatchNorm2d(3))
    wrapped = group.wrap(model, device)
    rows = group.slice(inputs).requires_grad_()
    # The whole batch's loss is the sum over processes; wrapping makes the mean of the gradients.
    (wrapped(rows) * group.slice(weights)).sum().backward()
    found = {"rows": rows.grad, "mean": model[0].running_mean, "var": model[0].running_var}
    found["weight"] = model[0].weight.grad * group.size  # type: ignore[operator]
    torch.save(found, folder / f"{group.rank}.pt")


def test_batch_norm_of_a_slice_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    run_in_processes(_shared_norm, 2, CPU, tmp_path, lambda _, __: None)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    torch.manual_seed(0)
    inputs = torch.randn(12, 3, 4, 4, dtype=torch.float64).float().requires_grad_()
    weights = torch.randn(12, 3, 4, 4)
    norm = nn.BatchNorm2d(3)
    (norm(inputs) * weights).sum().backward()
    torch.testing.assert_close(torch.cat([part["rows"] for part in parts]), inputs.grad, atol=1e-5, rtol=1e-4)
    for part in parts:
        torch.testing.assert_close(part["mean"], norm.running_mean)
        torch.testing.assert_close(part["var"], norm.running_var)
        torch.testing.assert_close(part["weight"], norm.weight.grad, atol=1e-5, rtol=1e-4)
