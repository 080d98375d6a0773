"""Why a process ends is said: in words on a terminal, as one JSON object a line everywhere else."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

MODULES = {
    "control-plane": "control_plane.app",
    "aggregator": "aggregator.server",
    "distiller": "distiller.worker",
    "queries": "distiller.queries.worker",
    "agent": "agent.main",
}


def environment() -> dict[str, str]:
    """Without settings, so that a process cannot start."""
    return {name: value for name, value in os.environ.items() if not name.startswith("FEDAFD_")}


@pytest.mark.parametrize("process", MODULES)
def test_a_process_that_cannot_start_says_so_in_one_json_object(process: str) -> None:
    command = [sys.executable, "-m", f"fedafd.{MODULES[process]}"]
    done = subprocess.run(command, env=environment(), cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (event,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert (event["process"], event["event"], event["level"]) == (process, "process.ended", "error")
    assert event["reason"]
    assert done.stdout == ""


def test_on_a_terminal_it_says_so_in_words() -> None:
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "fedafd.aggregator.server"], env=environment(), stderr=theirs, check=False
    )
    os.close(theirs)
    said = os.read(ours, 10_000).decode()
    os.close(ours)
    assert done.returncode == 2
    assert said.startswith("aggregator: ")
    assert "FEDAFD_AGGREGATOR_DATABASE_URL" in said
