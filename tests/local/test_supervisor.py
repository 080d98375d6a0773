"""The demo's children are watched and never outlive it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fedafd.cli.demo_output import DemoOutput
from fedafd.domain.errors import ConflictError, StorageFullError
from fedafd.domain.process_errors import ChildFailedError
from fedafd.local.supervisor import Supervisor, find_redis_server, free_port, is_free

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]


def _gone(pid: int, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_children_stop_with_the_supervisor_even_if_they_ignore_sigterm(tmp_path: Path) -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    with Supervisor(tmp_path) as supervisor:
        children = [supervisor.start("a", SLEEPER, {}), supervisor.start("b", [sys.executable, "-c", stubborn], {})]
        supervisor.wait_until(lambda: all("up" in child.log.read_text() for child in children), "children")
        supervisor.stop(seconds=0.5)
    assert all(_gone(child.process.pid) for child in children)


def test_grandchildren_go_too(tmp_path: Path) -> None:
    code = f"import subprocess, time; print(subprocess.Popen({SLEEPER!r}).pid, flush=True); time.sleep(600)"
    with Supervisor(tmp_path) as supervisor:
        child = supervisor.start("a", [sys.executable, "-c", code], {})
        supervisor.wait_until(lambda: "\n" in child.log.read_text(), "grandchild")
    assert _gone(int(child.log.read_text().split()[0]))


def test_crash_shows_the_end_of_the_log_and_where_it_lies(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        child = supervisor.start("aggregator", [sys.executable, "-c", "raise SystemExit('database is broken')"], {})
        with pytest.raises(
            ChildFailedError, match=r"(?s)aggregator ended with exit code 1.*aggregator.log.*database is broken"
        ):
            supervisor.wait_until(lambda: False, "the aggregator")
    assert child.process.returncode == 1


def test_child_that_may_end_is_no_failure_unless_it_failed(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        good = supervisor.start("good", [sys.executable, "-c", ""], {}, may_end=True)
        good.process.wait(20)
        supervisor.check()
        bad = supervisor.start("bad", [sys.executable, "-c", "raise SystemExit(3)"], {}, may_end=True)
        bad.process.wait(20)
        with pytest.raises(ChildFailedError, match="bad ended with exit code 3"):
            supervisor.check()


def test_ctrl_c_in_the_middle_of_a_start_is_heard_and_the_child_is_known(tmp_path: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path; from fedafd.local.supervisor import Supervisor\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "os.register_at_fork(after_in_parent=lambda: signal.raise_signal(signal.SIGINT))\n"
        f"s = Supervisor(Path({str(tmp_path)!r}))\n"
        "try:\n"
        f"    s.start('a', {SLEEPER!r}, {{}})\n"
        "except KeyboardInterrupt:\n"
        "    print('heard', len(s.children))\n"
        "s.stop()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("heard 1\n", "")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's help exists on Linux only")
def test_children_die_when_the_parent_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from fedafd.local.supervisor import Supervisor\n"
        f"s = Supervisor(Path({str(tmp_path)!r})); c = s.start('a', {SLEEPER!r}, {{}})\n"
        "print(c.process.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert _gone(child)


def test_redis_server_is_found_and_runs() -> None:
    shown = subprocess.run([find_redis_server(), "--version"], capture_output=True, text=True, check=True)
    assert "server v=" in shown.stdout


def test_free_port_is_free_and_a_taken_one_is_not() -> None:
    assert is_free(free_port())
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert not is_free(listener.getsockname()[1])


def test_output_folder_belongs_to_one_demo_at_a_time(tmp_path: Path) -> None:
    first = DemoOutput(tmp_path / "out", force=False)
    with pytest.raises(ConflictError, match="another demo is running here"):
        DemoOutput(tmp_path / "out", force=True)
    first.finish({"seed": 1})
    first.release()
    again = DemoOutput(tmp_path / "out", force=False)
    assert not again.results.exists()
    again.release()


def test_interrupted_demo_is_told_and_force_cleans_up(tmp_path: Path) -> None:
    first = DemoOutput(tmp_path / "out", force=False)
    (first.work / "left").write_text("over")
    first.release()
    with pytest.raises(ConflictError, match=r"interrupted.*--force"):
        DemoOutput(tmp_path / "out", force=False)
    again = DemoOutput(tmp_path / "out", force=True)
    assert not (again.work / "left").exists()
    again.release()


def test_foreign_folder_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConflictError, match=r"thesis\.tex"):
        DemoOutput(tmp_path, force=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_full_disk_is_told_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedafd.cli.demo_output._NEEDED_BYTES", 2**62)
    with pytest.raises(StorageFullError, match="MiB free"):
        DemoOutput(tmp_path / "out", force=False)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not tell what a process took")
def test_a_child_that_works_gets_more_time_and_one_that_waits_does_not(tmp_path: Path) -> None:
    busy = (
        "import time\nprint('begun', flush=True)\nend = time.monotonic() + 4\n"
        "while time.monotonic() < end: pass\nprint('up', flush=True)"
    )
    with Supervisor(tmp_path) as supervisor:
        child = supervisor.start("busy", [sys.executable, "-c", busy], {}, may_end=True)
        supervisor.wait_until(lambda: "begun" in child.log.read_text(), "the start")
        supervisor.wait_until(lambda: "up" in child.log.read_text(), "the busy one", seconds=1.5)
        supervisor.forget(child)
        supervisor.start("waiting", SLEEPER, {})
        supervisor.wait_until(lambda: "up" in (tmp_path / "waiting.log").read_text(), "the waiting one")
        with pytest.raises(ChildFailedError, match=r"the end was not ready after \d+ s; the logs are in"):
            supervisor.wait_until(lambda: False, "the end", seconds=1)
