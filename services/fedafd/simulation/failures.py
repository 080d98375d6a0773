"""Runs that failed: `failed.json` in the run's folder holds the reason, `failure.log` the traceback where there is one.

The next start of the run takes both away.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from fedafd.domain.errors import DataError, FedafdError
from fedafd.simulation.experiment import RunKey
from fedafd.simulation.files import read_json, write_json

__all__ = ["Failure", "failure_of", "failures_in", "forget_failure", "killed", "note_failure"]

_RECORD, _LOG = "failed.json", "failure.log"
_LONGEST = 300
_MEMORY = "use fewer --workers, or a smaller batch_size, if memory is short"


class Failure(NamedTuple):
    """Why a run ended before its time."""

    reason: str
    """One line."""
    expected: bool = True
    """False: nobody foresaw it, so that its process is not trusted with another run."""


def failure_of(error: Exception, folder: Path) -> Failure:
    """What `error` says of the run in `folder`; the traceback goes to its failure.log unless the words suffice."""
    if isinstance(error, FedafdError):
        return Failure(_one_line(str(error)))
    if isinstance(error, OSError):
        words = error.strerror or _one_line(str(error))
        return Failure(f"{error.filename or folder}: {words}; mend it, and the same command goes on from there")
    log = folder / _LOG
    with suppress(OSError):
        log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    said = _one_line(str(error))
    fault = type(error).__name__ + (f": {said}" if said else "")
    if isinstance(error, MemoryError) or "memory" in said.lower():
        fault += f"; {_MEMORY}"
    return Failure(f"{fault} (traceback in {log})", expected=False)


def killed(exit_code: int | None) -> Failure:
    """What is said of a run whose process ended before it."""
    if exit_code is not None and exit_code < 0:
        with suppress(ValueError):
            name = signal.Signals(-exit_code).name
            perhaps = f", perhaps by the system for want of memory; {_MEMORY}" if name == "SIGKILL" else ""
            return Failure(f"its process was ended by {name}{perhaps}", expected=False)
    return Failure(f"its process ended with exit code {exit_code}", expected=False)


def note_failure(folder: Path, failure: Failure) -> None:
    """Leave the reason in the run's folder; where even that fails, as on a full disk, the caller still knows it."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / _RECORD, {"reason": failure.reason})


def forget_failure(folder: Path) -> None:
    """The run starts again."""
    for name in (_RECORD, _LOG):
        with suppress(OSError):
            (folder / name).unlink()


def failures_in(output: Path, keys: Sequence[RunKey]) -> dict[RunKey, str]:
    """Reasons of the runs that failed when they were last tried."""
    failures = {}
    for key in keys:
        with suppress(DataError, KeyError):
            failures[key] = str(read_json(output / key.folder / _RECORD)["reason"])
    return failures


def _one_line(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    first = lines[0] if lines else ""
    return first if len(first) <= _LONGEST else first[: _LONGEST - 3] + "..."
