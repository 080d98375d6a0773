"""Numbers of things in sentences: `1 run`, `2 runs`, `1.5 MB`."""

from __future__ import annotations

__all__ = ["byte_size", "counted"]


def byte_size(count: float) -> str:
    """Bytes for people: `1.5 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def counted(count: int, one: str, several: str = "") -> str:
    """`count` and its noun: `one` for 1, else `several`, which is `one` with an s unless it is given."""
    return f"{count} {one if count == 1 else several or one + 's'}"
