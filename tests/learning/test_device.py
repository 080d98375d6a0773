"""Whole rounds on a device apart from the CPU: on one that stands in for a GPU, and on a GPU where there is one.

The stand-in computes on the CPU, but refuses tensors of two devices in one operator as CUDA does, and tells operators
and syncs of a step.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from tests.devices import CUDA
from tests.servers import ROOT

from fedafd.domain.kinds import ClientKind

OPTIMIZERS = ("adamp", "adamw", "adam", "sgd")
PARTICIPANTS = ("server", *(kind.value for kind in ClientKind))
APART = {"stand-in": 1e-3, "cuda": 0.02}
"""Rows are unit vectors. Moments of Adam turn a difference of rounding into one of a step where a gradient is near 0;
cuDNN's convolutions round to 10 bits besides."""
OPERATORS = {"server": 440, "image": 590, "text": 1000, "pair": 1330}
"""Of a step, at most. A GRU, which cuDNN computes as one, counts each of its positions here."""


@pytest.mark.parametrize("device", ["stand-in", CUDA])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_two_rounds_on_a_device_are_those_on_the_cpu_and_no_step_waits(optimizer: str, device: str) -> None:
    found = rounds(device, optimizer)
    for name, facts in found.items():
        if name == "diverged":
            assert "global training, round 1: the loss is" in facts
            continue
        assert facts["apart"] < APART[device], (name, facts)
        if "syncs" not in facts:
            continue
        print(f"{device}, {optimizer}, {name}: {facts['operators']} operators a step, syncs {facts['syncs']}")
        assert facts["same_tensors"], name
        assert facts["syncs"] == {}, name
        assert facts["operators"] <= OPERATORS[name.split(",")[0]], (name, facts)
    assert set(PARTICIPANTS) <= found.keys()


def rounds(device: str, optimizer: str) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.learning.device_rounds", device, optimizer]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
