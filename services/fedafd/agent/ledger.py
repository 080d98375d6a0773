"""The site engineer's record of what left the site: one JSON line per thing, append-only, written before it is sent.

Polls, progress, renewals of a certificate and other small calls are counted, in one line when a round is over and one
when the agent ends: what they may hold is in `fedafd.agent.what_leaves`. No private sample and no gradient leaves.
`fedafd agent sent` prints it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import structlog

from fedafd.agent.files import disk_full_is_clear, sync_folder
from fedafd.domain.errors import DataError

__all__ = ["Ledger", "SentEntry", "format_sent", "read_sent"]

_FILE = "sent.jsonl"
_LONGEST_LINE = 1 << 20
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class SentEntry:
    """One thing that left, or was about to: `what` is "enrolment", "representations", "personalized-model",
    "metrics" or "leave", "calls" for small calls since the line before, told afterwards, or "privacy" for steps that
    were paid for, where nothing left; `sha256` and `bytes` are of the whole content, of calls there is no hash; `round`
    is 0 outside of rounds."""

    at: str
    what: str
    sha256: str
    bytes: int
    round: int
    detail: str = ""


class Ledger:
    """Appends to `<state_dir>/sent.jsonl`.

    A power cut or a full disk can leave a last line without its end. What it was for has not left, as an entry is whole
    and on the disk before that: the next entry takes its place, and readers pass over it.
    """

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / _FILE

    def record(self, what: str, *, sha256: str, size_bytes: int, round_number: int, detail: str = "") -> None:
        """Write one entry down, durably, before the thing is sent."""
        entry = SentEntry(
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            what=what,
            sha256=sha256,
            bytes=size_bytes,
            round=round_number,
            detail=detail,
        )
        line = json.dumps(asdict(entry)).encode() + b"\n"
        with disk_full_is_clear(self._path.parent):
            is_new = not self._path.exists()
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "r+b") as file:
                _end_last_line(file)
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            if is_new:
                sync_folder(self._path.parent)


def _end_last_line(file: BinaryIO) -> None:
    """Go to where the next entry belongs: behind the last whole line."""
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - _LONGEST_LINE)
    file.seek(start)
    whole, newline, rest = file.read().rpartition(b"\n")
    if not rest:
        return
    if not newline and start:
        raise DataError(f"{file.name}: the last line has no end within {_LONGEST_LINE:,} bytes; is this a ledger?")
    try:
        _entry(rest)
        file.write(b"\n")
    except DataError:
        _log.warning("agent.ledger_entry_cut_short", path=file.name, bytes=len(rest))
        file.seek(start + len(whole) + len(newline))
        file.truncate()


def read_sent(state_dir: Path) -> Iterator[SentEntry]:
    """The entries, oldest first; none where nothing was sent. Raises DataError for a folder that is no state_dir."""
    if not state_dir.is_dir():
        raise DataError(f"{state_dir}: no such folder; give the agent's state_dir")
    path = state_dir / _FILE
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield _entry(line)
            except DataError as error:
                if not line.endswith(b"\n"):
                    return
                raise DataError(f"{path}, line {number}: {error}") from error


def _entry(line: bytes) -> SentEntry:
    try:
        return SentEntry(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise DataError(f"not a ledger entry: {error}") from error


def format_sent(entries: Iterator[SentEntry]) -> str:
    """The entries as a plain table, one line each, with a heading."""
    rows = [("when (UTC)", "round", "what", "bytes", "sha256", "detail")]
    rows += [(e.at[:19], str(e.round or "-"), e.what, f"{e.bytes:,}", e.sha256[:16], e.detail) for e in entries]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
