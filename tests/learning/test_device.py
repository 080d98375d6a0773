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
APART = {"stand-in": 1e-3, "cuda": 0.02}
"""Rows are unit vectors. Moments of Adam turn a difference of rounding into one of a step where a gradient is near 0;
cuDNN's convolutions round to 10 bits besides."""
OPERATORS = {
    "all": {"server": 440, "image": 590, "text": 1000, "pair": 1330},
    "head": {"server": 90, "image": 445, "text": 375, "pair": 560},
    "lora": {"server": 335, "image": 630, "text": 520, "pair": 960},
}
"""Of a step, at most. A GRU, which cuDNN computes as one, counts each of its positions here."""


@pytest.mark.parametrize("device", ["stand-in", CUDA])
def test_two_rounds_on_a_device_are_those_on_the_cpu_and_no_step_waits(device: str) -> None:
    found = rounds(device)
    for optimizer, participants in found.items():
        assert {name.partition(",")[0] for name in participants} >= {"server", *ClientKind}, optimizer
        for name, facts in participants.items():
            if name == "diverged":
                assert "global training, round 1: the loss is" in facts
                continue
            assert facts["apart"] < APART[device], (optimizer, name, facts)
            if "syncs" not in facts:
                continue
            print(f"{device}, {optimizer}, {name}: {facts['operators']} operators a step, syncs {facts['syncs']}")
            assert facts["same_tensors"], (optimizer, name)
            assert facts["syncs"] == {}, (optimizer, name)
            participant, _, trainable = name.partition(", ")
            assert facts["operators"] <= OPERATORS[trainable][participant], (optimizer, name, facts)
    assert tuple(found) == OPTIMIZERS
    for trainable in OPERATORS:
        for optimizer, participants in found.items():
            assert any(name.endswith(f", {trainable}") for name in participants), (optimizer, trainable)
        for participant in ("server", *ClientKind):
            assert any(f"{participant}, {trainable}" in names for names in found.values()), (participant, trainable)
    assert "diverged" in found["adamp"]


def rounds(device: str) -> dict[str, dict[str, Any]]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.learning.device_rounds", device, *OPTIMIZERS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


FOLDS = """
import json, torch
from benchmarks.device_operators import DeviceOperators
from benchmarks.stand_in import stand_in
from fedafd.algorithm.distillation import MeanEnsemble, SimilarityEnsemble

torch.manual_seed(0)
compared, first, second = torch.randn(3, 50, 8)
found = {}
with stand_in() as device, torch.no_grad():
    for kind in (SimilarityEnsemble, MeanEnsemble):
        ensemble, host = kind(compared.to(device)).anew(), kind(compared)
        ensemble.add(first.to(device))
        sent = second.to(device)
        with DeviceOperators(device) as counter:
            ensemble.add(sent)
        host.add(first)
        host.add(second)
        apart = (ensemble.result().cpu() - host.result()).abs().max()
        found[kind.__name__] = [counter.syncs.total(), float(apart)]
        for bad in (torch.nan, torch.inf, -torch.inf):
            wrong = second.clone()
            wrong[3, 2] = bad
            try:
                ensemble.add(wrong.to(device))
            except ValueError as error:
                assert "first at index [3, 2]" in str(error)
            else:
                raise AssertionError(bad)
print(json.dumps(found))
"""


def test_a_fold_waits_for_the_device_once_and_still_finds_what_is_not_finite() -> None:
    command = [sys.executable, "-W", "ignore", "-c", FOLDS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    assert {name: syncs for name, (syncs, _) in found.items()} == {"SimilarityEnsemble": 1, "MeanEnsemble": 1}
    assert all(apart < 1e-6 for _, apart in found.values()), found
