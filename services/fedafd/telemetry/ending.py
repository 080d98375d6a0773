"""A process says why it ends, and ends in time, even where something it waits for does not answer."""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from datetime import UTC, datetime

from fedafd.domain.errors import FedafdError
from fedafd.telemetry.logging import get_logger

__all__ = ["END_EXIT_CODE", "end_within", "leave_objects", "tell_end"]

END_EXIT_CODE = 4
"""Of a process that was asked to end and had to be ended."""
_log = get_logger(__name__)


def end_within(seconds: float) -> threading.Timer:
    """End this process after `seconds` if it is still there, whatever its threads wait for; all it knows is stored."""
    timer = threading.Timer(seconds, _end, args=(seconds,))
    timer.daemon = True
    timer.start()
    return timer


def leave_objects() -> None:
    """Call it last: the interpreter then looks through no objects once more, a second's work where torch is loaded."""
    gc.freeze()


def tell_end(process: str, error: FedafdError) -> None:
    """Say on standard error why a process ends: in words on a terminal, as an event of JSON elsewhere.

    Needs no configured logging: the settings themselves may be the reason.
    """
    if sys.stderr.isatty():
        sys.stderr.write(f"{process}: {error}\n")
        return
    at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    event = {"reason": str(error), "code": error.code, "event": "process.ended", "level": "error", "timestamp": at}
    sys.stderr.write(json.dumps(event | {"process": process}) + "\n")


def _end(seconds: float) -> None:
    _log.error("process.ended_hard", reason=f"asked to end {seconds:g} s ago, and something did not answer")
    os._exit(END_EXIT_CODE)
