"""Processes that train: forks of one server on the CPU, empty processes on a GPU."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest
from tests.servers import wait_until

from fedafd.learning.process_start import training_processes


def _note_imported(path: str) -> None:
    # Asked before anything is imported here: what is there came from the server.
    there = [
        name for name in ("torch", "transformers.modeling_utils", "fedafd.learning.parallel") if name in sys.modules
    ]
    Path(path).write_text(" ".join(there))


def test_on_the_cpu_everything_is_imported_when_a_process_starts(tmp_path: Path) -> None:
    process = training_processes("cpu").Process(target=_note_imported, args=(str(tmp_path / "names"),))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert (tmp_path / "names").read_text() == "torch transformers.modeling_utils fedafd.learning.parallel"


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_on_a_gpu_a_process_starts_empty(device: str) -> None:
    assert training_processes(device).get_start_method() == "spawn"


def test_a_folder_for_temporary_files_that_is_too_long_for_a_socket_costs_speed_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 100)))
    assert training_processes("cpu").get_start_method() == "spawn"


def _wait(path: str) -> None:
    Path(path).write_text(str(os.getppid()))
    signal.pause()


def _noted(note: Path) -> int:
    wait_until(lambda: note.exists() and bool(note.read_text()), "the process", seconds=120)
    return int(note.read_text())


def test_a_server_that_was_killed_is_started_again(tmp_path: Path) -> None:
    processes = training_processes("cpu")
    for attempt in range(2):
        note = tmp_path / str(attempt)
        process = processes.Process(target=_wait, args=(str(note),))
        process.start()
        server = _noted(note)
        os.kill(server, signal.SIGKILL)
        # It lives on until the last of its threads has ended; multiprocessing asks whether it has, and does not wait.
        os.waitid(os.P_PID, server, os.WEXITED | os.WNOWAIT)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
