"""What the federation wants of this site at the moment, in a file for whoever asks at the site."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from fedafd.agent.files import write_atomically
from fedafd.domain.errors import StorageFullError

__all__ = ["TaskNote", "note_task", "read_task_note"]

_FILE = "task.json"


@dataclass(frozen=True, kw_only=True)
class TaskNote:
    """The last answer to the agent's question what to do."""

    at: str
    """ISO 8601, UTC."""
    round_number: int | None
    """The round to take part in; None: to wait."""
    reason: str = ""
    """Why to wait, as the federation says it."""
    deadline: str | None = None
    """Until when the round waits for this site, ISO 8601, UTC, by the federation's clock; None: it does not say."""


def note_task(
    root: Path, *, round_number: int | None = None, reason: str = "", deadline: datetime | None = None
) -> None:
    """Keep it. A disk that is full or broken is no matter: the agent does not need it."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    until = None if deadline is None else deadline.isoformat(timespec="seconds")
    note = TaskNote(at=now, round_number=round_number, reason=reason, deadline=until)
    with suppress(OSError, StorageFullError):
        write_atomically(root / _FILE, json.dumps(asdict(note)).encode(), mode=0o600)


def read_task_note(root: Path) -> TaskNote | None:
    """None before the first answer, and for a damaged file."""
    try:
        return TaskNote(**json.loads((root / _FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
