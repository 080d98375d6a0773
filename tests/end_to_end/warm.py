"""Processes at the price of a fork: children of one that has imported what services and agents need, seconds of work.

Each is a process of its own (session, environment, log, exit) that runs its module as `python -m` would; what it
cannot show is what a start from nothing imports and costs, which tests of `fedafd up`, of the demo and of the command
line do. How many threads a library takes it reads while it is imported: one here, and who asks for more gets none.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedafd.local.services import thread_environment

__all__ = ["WarmProcess", "keep_warm", "start_warm"]

_ALL_NEED = (
    "fedafd.agent.metrics",
    "fedafd.agent.runner",
    "fedafd.agent.site",
    "fedafd.agent.start",
    "fedafd.aggregator.server",
    "fedafd.cli.main",
    "fedafd.control_plane.app",
    "fedafd.distiller.queries.answering",
    "fedafd.distiller.queries.worker",
    "fedafd.distiller.stages",
    "fedafd.distiller.worker",
    "fedafd.learning.client_round",
    "fedafd.learning.feature_cache",
    "fedafd.learning.fedavg",
    "fedafd.learning.personalized_export",
    "transformers.models.resnet.modeling_resnet",
)
_PR_SET_PDEATHSIG = 1
_THREADS = thread_environment(1)


class WarmProcess:
    """What `subprocess.Popen` is for other children: the part of it that a supervisor and the tests use."""

    def __init__(self, pid: int, args: Sequence[str]) -> None:
        self.pid = pid
        self.args = list(args)
        self.returncode: int | None = None
        self._ended = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """The exit code (negative: the signal), or None while it runs."""
        return self._reap(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Raises subprocess.TimeoutExpired."""
        if (status := self._reap(timeout)) is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def _reap(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._ended], [], [], timeout)[0]:
            # Its parent keeps it as a zombie until it is asked, so that the number names no other process meanwhile.
            self.returncode = int(_Parent.shared().ask({"reap": self.pid}))
            os.close(self._ended)
        return self.returncode


def start_warm(command: Sequence[str], environment: Mapping[str, str], log: Path) -> WarmProcess | None:
    """Run `python -m MODULE ...` in a fork, with all of `environment` and `log` for its output; None for any other
    command, and for more threads than one."""
    if list(command[:2]) != [sys.executable, "-m"] or environment.get("OMP_NUM_THREADS") != "1":
        return None
    request = {"arguments": list(command[2:]), "environment": dict(environment), "log": str(log), "at": str(Path.cwd())}
    return WarmProcess(int(_Parent.shared().ask(request)), command)


def keep_warm(module: str) -> None:
    """Import what few tests need, too, before processes that need it are started."""
    _Parent.shared().ask({"import": module})


@dataclass
class _Parent:
    """The process that forks, as the tests' process sees it. It ends with that one."""

    line: socket.socket
    lock: threading.Lock

    @staticmethod
    @functools.cache
    def shared() -> _Parent:
        ours, its = socket.socketpair()
        with its:
            command = [sys.executable, "-m", __name__, str(its.fileno()), str(os.getpid())]
            # Its end is that of its pipe, too: no test waits for it, and no process of this module outlives the tests.
            subprocess.Popen(
                command,
                pass_fds=[its.fileno()],
                env=os.environ | _THREADS,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        return _Parent(ours, threading.Lock())

    def ask(self, request: Mapping[str, Any]) -> str:
        with self.lock:
            self.line.sendall(json.dumps(request).encode() + b"\n")
            answer = self.line.recv(64)
        if not answer:
            raise ChildProcessError("the process that starts others has ended")
        return answer.decode()


def _become(request: Mapping[str, Any]) -> None:
    """In the child: be the module that the request names."""
    os.setsid()
    os.chdir(request["at"])
    os.environ.clear()
    os.environ.update(request["environment"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 1)
    os.dup2(1, 2)
    module, *arguments = request["arguments"]
    tempfile.tempdir = None  # what imports asked for it was of another environment
    sys.argv = [module, *arguments]
    sys.modules.pop(module, None)  # else runpy warns that the module runs twice; it does under `python -m`, too
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _die_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def main() -> None:
    """Fork as asked, until the tests' process closes its end."""
    _die_with(int(sys.argv[2]))
    for name in _ALL_NEED:
        importlib.import_module(name)
    gc.freeze()  # else a collection in a child copies the pages that they share
    line = socket.socket(fileno=int(sys.argv[1]))
    parent = os.getpid()
    with line.makefile("r", encoding="utf-8") as requests:
        for text in requests:
            request = json.loads(text)
            if "reap" in request:
                answer = os.waitstatus_to_exitcode(os.waitpid(request["reap"], 0)[1])
            elif "import" in request:
                importlib.import_module(request["import"])
                answer = 0
            elif (answer := os.fork()) == 0:
                _die_with(parent)
                _become(request)
                return
            line.sendall(str(answer).encode())


if __name__ == "__main__":
    main()
