"""The site engineer's record of what left the site: one JSON line per thing, append-only, written before it is sent.

Nothing else leaves: no private sample, no gradient. `fedafd agent sent` prints it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from fedafd.agent.files import disk_full_is_clear
from fedafd.domain.errors import DataError

__all__ = ["Ledger", "SentEntry", "format_sent", "read_sent"]

_FILE = "sent.jsonl"


@dataclass(frozen=True, kw_only=True)
class SentEntry:
    """One thing that left, or was about to: `what` is "enrolment", "representations", "personalized-model",
    "metrics" or "leave", or "privacy" for steps that were paid for, where nothing left; `sha256` and `bytes` are of
    the whole content; `round` is 0 outside of rounds."""

    at: str
    what: str
    sha256: str
    bytes: int
    round: int
    detail: str = ""


class Ledger:
    """Appends to `<state_dir>/sent.jsonl`."""

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
        with disk_full_is_clear(self._path.parent):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(entry)) + "\n")
                file.flush()
                os.fsync(file.fileno())


def read_sent(state_dir: Path) -> Iterator[SentEntry]:
    """The entries, oldest first; none where nothing was sent. Raises DataError for a state_dir that is none."""
    if not state_dir.is_dir():
        raise DataError(f"{state_dir}: no such folder; give the agent's state_dir")
    path = state_dir / _FILE
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield SentEntry(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise DataError(f"{path}, line {number}: not a ledger entry: {error}") from error


def format_sent(entries: Iterator[SentEntry]) -> str:
    """The entries as a plain table, one line each, with a heading."""
    rows = [("when (UTC)", "round", "what", "bytes", "sha256", "detail")]
    rows += [(e.at[:19], str(e.round or "-"), e.what, f"{e.bytes:,}", e.sha256[:16], e.detail) for e in entries]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
