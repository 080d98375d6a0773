"""`fedafd simulate` for tests that look at what it makes, not at how its own process starts and ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.cli.in_process import run_fedafd
from tests.simulation.simulated import Simulate, Simulated
from tests.simulation.test_simulate import command


@pytest.fixture
def simulate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Simulate:
    """The command of tests.simulation.test_simulate.command, in this process, which has loaded its libraries.

    Its workers are processes, as always. A command of its own loads the libraries twice, in itself and for its workers:
    7 s of a core.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # the command sets them for its workers

    def call(experiment: dict[str, Any], *more: str) -> Simulated:
        _, _, _, *arguments = command(tmp_path, experiment, *more)
        return Simulated(*run_fedafd(monkeypatch, capsys, *arguments))

    return call
