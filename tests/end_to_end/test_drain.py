"""`fedafd drain` and `fedafd resume` on real processes, with a round in flight and another one queued."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.end_to_end.federation import FEDERATION, KINDS, Trial, embedded
from tests.end_to_end.supervised import LoggedSupervisor

from fedafd.datasets import load_public_data, write_public_set

pytestmark = pytest.mark.timeout(600)
_LOOKS = 5.0
"""Several of the coordinator's looks at what it could start."""


@pytest.fixture
def trial(tmp_path: Path, redis_url: str) -> Iterator[Trial]:
    backends = embedded(tmp_path, redis_url.removesuffix("/0") + "/7")
    with LoggedSupervisor(tmp_path / "logs") as supervisor:
        trial = Trial(supervisor, backends, tmp_path)
        public = load_public_data("shapes", None, {"num_train": 64, "num_val": 16, "num_test": 32, "seed": 5})
        write_public_set(public, tmp_path / "public-set")
        trial.rest.create(FEDERATION | {"idle_timeout_seconds": 600})
        trial.rest.push_public_set(tmp_path / "public-set")
        trial.invite_all()
        yield trial
        trial.rest.close()


def command(trial: Trial, *arguments: str) -> subprocess.Popen[str]:
    own = {"FEDAFD_URL": trial.services.url, "FEDAFD_API_KEY": trial.services.api_key}
    program = [sys.executable, "-m", "fedafd.cli.main", *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # A shell that runs the tests in the background lets them ignore Ctrl-C, and what they start would too.
    return subprocess.Popen(program, env=os.environ | own, text=True, preexec_fn=_hear_interrupts, **pipes)


def _hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finished(process: subprocess.Popen[str], seconds: float = 60) -> tuple[int, str, str]:
    try:
        output, errors = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, output, errors


def states(trial: Trial) -> tuple[str, str]:
    return trial.rest.round(1)["state"], trial.rest.round(2)["state"]


def drain_state(trial: Trial) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {trial.services.api_key}"}
    state: dict[str, Any] = httpx.get(f"{trial.services.url}/v1/drain", headers=headers).json()
    return state


def test_drain_waits_for_what_runs_lets_nothing_start_and_resume_goes_on(trial: Trial) -> None:
    # Two of three agents are away, so that the round stays in flight for as long as the first half takes.
    agents = {name: trial.start_agent(name) for name in KINDS}
    trial.until(lambda: all(c["state"] == "enrolled" for c in trial.rest.clients()), "the agents")
    for name in ("images", "pairs"):
        trial.kill(agents[name])
    trial.rest.start_rounds(2)
    trial.until(lambda: trial.rest.round(1)["state"] == "collecting", "the first round", 120)

    # Ctrl-C stops the waiting; it says what is left behind, and that is so.
    interrupted = command(trial, "drain", "--reason", "upgrade")
    assert interrupted.stderr is not None
    assert interrupted.stderr.readline() == "queued rounds wait; still running: trial/1 (collecting)\n"
    interrupted.send_signal(signal.SIGINT)
    code, output, errors = finished(interrupted)
    assert (code, output) == (130, "")
    assert errors == (
        "not waiting any more; the service stays drained: rounds that run go on to their end, queued ones wait until"
        " `fedafd resume`\n"
    )
    state = drain_state(trial)
    assert (state["draining"], state["reason"]) == (True, "upgrade")
    assert state["running"] == [{"federation": "trial", "number": 1, "state": "collecting"}]

    # Time that is up, and a look without waiting.
    code, _, errors = finished(command(trial, "drain", "--timeout", "0.5"))
    assert code == 1
    assert "after 0.5 s these rounds still run and go on: trial/1 (collecting); the service stays drained" in errors
    code, output, _ = finished(command(trial, "drain", "--no-wait"))
    assert (code, output) == (0, "draining; still running: trial/1 (collecting)\n")

    # It waits on over a control plane that is replaced meanwhile, until the round is over.
    waiting = command(trial, "drain")
    assert waiting.stderr is not None
    waiting.stderr.readline()
    control_plane = next(child for child in trial.supervisor.children if child.name == "control-plane")
    trial.kill(control_plane)
    time.sleep(_LOOKS)
    assert waiting.poll() is None
    trial.services.start_control_plane()
    trial.services.wait_for_control_plane()
    assert states(trial) == ("collecting", "queued")
    for name in ("images", "pairs"):
        trial.start_agent(name)
    code, output, _ = finished(waiting, 200)
    assert states(trial) == ("completed", "queued")
    assert (code, output) == (0, "drained: no round runs\n")
    delivered = [each["state"] for each in trial.rest.round(1)["participations"]]
    assert delivered == ["delivered"] * len(KINDS)

    time.sleep(_LOOKS)
    assert states(trial) == ("completed", "queued")
    assert finished(command(trial, "drain"))[:2] == (0, "drained: no round runs\n")

    # Without one of its clients the second round is not over before it is looked at.
    trial.kill(next(child for child in trial.supervisor.children if child.name == "agent-texts"))
    assert finished(command(trial, "resume"))[:2] == (0, "queued rounds start again\n")
    assert drain_state(trial)["draining"] is False
    trial.until(lambda: states(trial)[1] not in ("queued", "failed", "cancelled"), "the second round")

    # Who waits is told when somebody else resumes.
    waiting = command(trial, "drain")
    assert waiting.stderr is not None
    assert waiting.stderr.readline().startswith("queued rounds wait; still running: trial/2")
    assert finished(command(trial, "resume"))[0] == 0
    code, output, errors = finished(waiting)
    assert (code, output) == (6, "")
    assert "somebody resumed the service meanwhile: it is not drained" in errors
