"""A supervisor whose children start by a fork, where they are Python's, and whose logs are shown when a test fails."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, cast

from tests.end_to_end.warm import start_warm

from fedafd.local.supervisor import Supervisor

__all__ = ["LoggedSupervisor", "newest_logs"]

_LINES = 30


class LoggedSupervisor(Supervisor):
    """Remembers where it lets its children write."""

    newest: ClassVar[Path | None] = None

    def __init__(self, logs: Path) -> None:
        super().__init__(logs)
        LoggedSupervisor.newest = logs

    def _spawn(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        log.touch()
        if (process := start_warm(command, environment, log)) is None:
            return super()._spawn(command, environment, log)
        return cast("subprocess.Popen[bytes]", process)


def newest_logs() -> str:
    """The last lines of every log of the newest supervisor's children."""
    if LoggedSupervisor.newest is None:
        return ""
    logs = sorted(LoggedSupervisor.newest.glob("*.log"))
    return "\n".join(f"== {path.name}\n" + "\n".join(_tail(path)) for path in logs)


def _tail(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()[-_LINES:]
