"""Steps recorded and replayed give what the steps give, and a step that cannot be recorded runs as it is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from tests.devices import CUDA
from tests.servers import ROOT
from torch import Tensor, nn

from fedafd.learning import recorded_steps
from fedafd.learning.recorded_steps import NotRecordableError, RecordedSteps, recorder_for

CPU = torch.device("cpu")


@pytest.mark.parametrize("device", ["stand-in", CUDA])
def test_recorded_rounds_end_as_others_do_and_a_step_is_one_replay(device: str) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.learning.recorded_rounds", device]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found.keys() == {"server, adamp", "image, adam", "text, adamp", "pair, sgd"}
    for name, facts in found.items():
        # Bias corrections are the host's doubles on one side, and the device's floats on the other.
        assert facts["apart"] < (0.05 if device == "cuda" else 1e-4), (name, facts)
        assert facts["same_tensors"], name
        # Of the server one in each of two rounds; of a classifier also one of its branch that trains alone.
        assert facts["recordings"] == (1 if name.startswith("pair") else 2), (name, facts)
        assert facts["syncs"] == 0, (name, facts)
        # What is left are the batch, its copy to where the recording reads it, and the sum of the losses.
        assert facts["operators"] <= 35, (name, facts)


class Batch(NamedTuple):
    rows: Tensor
    note: Tensor | None = None


class Lazy:
    """Replays by doing the work anew; `waits` and `breaks` say what goes wrong."""

    def __init__(self, *, waits: bool = False, breaks: bool = False) -> None:
        self.waits, self.breaks, self.recorded, self.replayed = waits, breaks, 0, 0

    def warm(self, work: Callable[[], Tensor]) -> tuple[Tensor, bool]:
        return work(), self.waits

    def record(self, work: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], object]]:
        if self.breaks:
            raise NotRecordableError("the stream said no")
        self.recorded += 1
        made = torch.zeros(())

        def replay() -> None:
            self.replayed += 1
            made.copy_(work())

        return made, replay


def stepped(recorder: Lazy | None, batches: list[Batch]) -> tuple[list[float], nn.Linear]:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(batch: Batch) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss: Tensor = model(batch.rows).square().mean()
        torch.autograd.backward(loss)
        optimizer.step()
        return loss.detach()

    steps = RecordedSteps(step, recorder, list(model.parameters()), CPU)
    losses = [steps(batch) for batch in batches]
    return [float(loss) for loss in losses], model


def batches(*sizes: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [Batch(torch.randn(size, 3, generator=generator)) for size in sizes]


def test_each_form_of_a_batch_is_recorded_after_its_own_warm_up() -> None:
    given, recorder = batches(*[4] * 5, *[2] * 6), Lazy()
    found, model = stepped(recorder, given)
    wanted, plain = stepped(None, given)
    assert (recorder.recorded, recorder.replayed) == (2, 2 + 3)
    assert found == wanted  # a loss that was told does not change with the next replay
    assert torch.equal(model.weight, plain.weight)


@pytest.mark.parametrize(("trouble", "reason"), [("waits", "waits for the device"), ("breaks", "the stream said no")])
def test_a_step_that_cannot_be_recorded_runs_as_it_is_and_the_log_tells_once(
    trouble: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(recorded_steps._log, "warning", lambda event, **facts: told.append(f"{event}: {facts}"))
    given, recorder = batches(*[4] * 8), Lazy(**{trouble: True})
    assert stepped(recorder, given)[0] == stepped(None, given)[0]
    assert (recorder.recorded, recorder.replayed) == (0, 0)
    assert len(told) == 1
    assert "step.not_recorded" in told[0]
    assert reason in told[0]


def test_steps_are_recorded_where_that_is_asked_for_and_goes_with_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Lazy()
    plain = {"wanted": True, "accumulate": 1, "compiled": False, "size": 1}
    assert recorder_for(CPU, **plain) is None  # type: ignore[arg-type]
    monkeypatch.setitem(recorded_steps.RECORDERS, "cpu", lambda _: recorder)
    assert recorder_for(CPU, **plain) is recorder  # type: ignore[arg-type]
    told: list[str] = []
    monkeypatch.setattr(recorded_steps._log, "warning", lambda event, **facts: told.append(facts["reason"]))
    for change in ({"accumulate": 2}, {"compiled": True}, {"size": 2}):
        assert recorder_for(CPU, **plain | change) is None  # type: ignore[arg-type]
    assert [reason.split()[-1] for reason in told] == ["accumulate", "compile", "processes"]
    assert recorder_for(CPU, **plain | {"wanted": False}) is None  # type: ignore[arg-type]
