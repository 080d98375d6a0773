"""What anybody who reaches a port can make a process write into its log: so many lines of a kind in a minute.

A refused call is a line, and a header of one byte that is no text makes gRPC write a trace of half a kilobyte: whoever
sent enough of them filled the disk. Beyond the limit lines are counted, and the first of a later minute says how many
were left out.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

__all__ = ["LINES_A_MINUTE", "SparingFilter"]

LINES_A_MINUTE = 100
_OF_STRANGERS = frozenset({"rpc.refused", "connections.refused"})
"""Events of ours that a caller without a credential causes. Each of their codes has a limit of its own."""
_LIBRARIES = ("grpc", "asyncio", "uvicorn")
"""Loggers of libraries that read what strangers send."""
_MINUTE = 60.0
_MOST_KINDS = 1000


@dataclass
class _Minute:
    begun: float
    lines: int = 0
    left_out: int = 0


class SparingFilter(logging.Filter):
    """Lets the first lines of a kind pass, and counts the rest of its minute."""

    def __init__(self, lines: int = LINES_A_MINUTE) -> None:
        super().__init__()
        self._most = lines
        self._minutes: dict[str, _Minute] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        kind = _kind(record)
        if kind is None:
            return True
        now = time.monotonic()
        minute = self._minutes.get(kind)
        if minute is None or now - minute.begun >= _MINUTE:
            before = 0 if minute is None else minute.left_out
            if len(self._minutes) >= _MOST_KINDS:
                self._minutes.clear()
            minute = self._minutes[kind] = _Minute(now)
            if before:
                _note(record, f"{before} more lines of this kind were left out before")
        minute.lines += 1
        if minute.lines == self._most:
            _note(record, f"more lines of this kind are counted, and not written, for {_MINUTE:g} s")
        minute.left_out += minute.lines > self._most
        return minute.lines <= self._most


def _kind(record: logging.LogRecord) -> str | None:
    """None for what no stranger causes."""
    if isinstance(record.msg, dict):
        event = str(record.msg.get("event"))
        return f"{event}:{record.msg.get('code')}" if event in _OF_STRANGERS else None
    return record.name if record.name.partition(".")[0] in _LIBRARIES else None


def _note(record: logging.LogRecord, words: str) -> None:
    if isinstance(record.msg, dict):
        record.msg = {**record.msg, "note": words}
    else:
        record.msg = f"{record.msg} ({words})"
