"""Numbers of things in sentences: `1 run`, `2 runs`."""

from __future__ import annotations

__all__ = ["counted"]


def counted(count: int, one: str, several: str = "") -> str:
    """`count` and its noun: `one` for 1, else `several`, which is `one` with an s unless it is given."""
    return f"{count} {one if count == 1 else several or one + 's'}"
