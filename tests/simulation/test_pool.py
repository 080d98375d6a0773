"""Worker processes of `fedafd simulate`, for real: stopped, killed, failing in ways that nobody foresaw."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.simulation.simulated import Simulate
from tests.simulation.test_simulate import TINY, alive, command, workers_of

from fedafd.domain.errors import DataError
from fedafd.simulation.failures import failure_of, killed

SMALLEST = TINY | {"clients": TINY["clients"][:1], "rounds": 1}
ENDLESS = TINY | {"strategies": ["fedafd"], "seeds": [0, 1], "rounds": 500}
BROKEN = {"image_encoder": {"options": TINY["federation"]["image_encoder"]["options"] | {"num_channels": 1}}}


def wait_for(happened: Callable[[], Any], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def started(wanted: list[str]) -> Iterator[subprocess.Popen[str]]:
    """The command in a session of its own, with Ctrl-C heard even where this one runs in the background."""
    process = subprocess.Popen(
        wanted,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def forks_of(pid: int) -> list[psutil.Process]:
    """Its workers, without the servers that they come from and report to."""
    servers = [child for child in psutil.Process(pid).children() if "forkserver" in " ".join(child.cmdline())]
    return [fork for server in servers for fork in server.children()]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("sent", "code", "to_group"),
    [(signal.SIGINT, 130, True), (signal.SIGTERM, 143, False)],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_a_signal_stops_all_that_computes(tmp_path: Path, sent: signal.Signals, code: int, to_group: bool) -> None:
    wanted = command(tmp_path, ENDLESS, "--workers", "2")
    at_work = [tmp_path / "out" / f"runs/iid/fedafd/seed-{seed}" for seed in (0, 1)]
    with started(wanted) as process:
        wait_for(lambda: all((folder / "now.json").exists() for folder in at_work))
        children = workers_of(process.pid)
        assert len(children) >= 2
        begun = time.monotonic()
        os.killpg(process.pid, sent) if to_group else process.send_signal(sent)
        told, complaints = process.communicate(timeout=60)
        assert time.monotonic() - begun < 30
        assert process.returncode == code
        assert "Stopped. The same command goes on where it was" in told
        assert "Traceback" not in told + complaints
        wait_for(lambda: not any(alive(pid) for pid in children), seconds=5)


def test_a_killed_worker_takes_one_run_with_it_and_the_next_command_does_that(
    tmp_path: Path, simulate: Simulate
) -> None:
    experiment = SMALLEST | {"strategies": ["local", "fedavg"], "rounds": 3}
    wanted = command(tmp_path, experiment, "--workers", "1")
    first, second = (tmp_path / "out" / f"runs/iid/{strategy}/seed-0" for strategy in ("local", "fedavg"))
    with started(wanted) as process:
        wait_for(lambda: (first / "now.json").exists())
        (worker,) = forks_of(process.pid)
        worker.kill()
        told, complaints = process.communicate(timeout=240)
    assert process.returncode == 1, complaints
    assert "failed iid / local / seed 0: its process was ended by SIGKILL" in " ".join(told.split())
    assert "fewer --workers" in read(first / "failed.json")["reason"]
    assert (second / "result.json").exists()
    assert "1 of 2 runs is not done" in (tmp_path / "out" / "results.md").read_text()
    assert [each["strategy"] for each in read(tmp_path / "out" / "results.json")["failed"]] == ["local"]

    again = simulate(experiment, "--workers", "1")
    assert again.returncode == 0, again.stdout + again.stderr
    assert (first / "result.json").exists()
    assert not (first / "failed.json").exists()
    assert "not done" not in (tmp_path / "out" / "results.md").read_text()


def test_an_error_that_nobody_foresaw_is_one_line_and_the_others_go_on(tmp_path: Path) -> None:
    experiment = SMALLEST | {"strategies": {"broken": BROKEN, "local": {}}, "baseline": "local"}
    done = subprocess.run(command(tmp_path, experiment, "--workers", "1"), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    folder = tmp_path / "out" / "runs/iid/broken/seed-0"
    reason = read(folder / "failed.json")["reason"]
    assert reason.startswith("ValueError: ")
    assert f"(traceback in {folder / 'failure.log'})" in reason
    assert "Traceback" in (folder / "failure.log").read_text()
    assert f"iid / broken / seed 0 failed: {reason}" in (tmp_path / "out" / "results.md").read_text()
    assert (tmp_path / "out" / "runs/iid/local/seed-0/result.json").exists()


def test_reasons_are_one_line_of_bounded_length(tmp_path: Path) -> None:
    assert failure_of(DataError("a\n\nb"), tmp_path).reason == "a"
    assert len(failure_of(RuntimeError("x" * 10_000), tmp_path).reason) < 600
    assert failure_of(RuntimeError(), tmp_path).reason.startswith("RuntimeError (traceback in ")
    for error in (MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), RuntimeError("a\nb")):
        failure = failure_of(error, tmp_path)
        assert not failure.expected
        assert "\n" not in failure.reason
        assert ("fewer --workers" in failure.reason) == ("b" not in str(error))
    assert "SIGSEGV" in killed(-signal.SIGSEGV).reason
    assert "exit code 3" in killed(3).reason


def test_nothing_needs_shared_memory(tmp_path: Path) -> None:
    """With /dev/shm read-only, in a mount namespace of its own, several workers do their runs."""
    inside = "mount -t tmpfs -o ro none /dev/shm && ! touch /dev/shm/any 2>/dev/null && exec "
    unshare = shutil.which("unshare")
    allowed = (
        unshare
        and not subprocess.run(
            [unshare, "-rm", "sh", "-c", inside + "true"], capture_output=True, check=False
        ).returncode
    )
    if not allowed:
        pytest.skip("this machine gives no mount namespace")
    experiment = SMALLEST | {"strategies": ["local"], "seeds": [0, 1]}
    wanted = command(tmp_path, experiment, "--workers", "2")
    assert wanted[0] == sys.executable
    done = subprocess.run(
        [str(unshare), "-rm", "sh", "-c", inside + '"$@"', "sh", *wanted], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
