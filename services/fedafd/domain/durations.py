"""Durations for people."""

from __future__ import annotations

__all__ = ["duration_words"]


def duration_words(seconds: float) -> str:
    """A duration for people: `72 s`, `12 min`, `3.5 h`, `4 days`."""
    if seconds < 120:
        return f"{max(seconds, 0):.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"
