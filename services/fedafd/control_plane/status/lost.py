"""Who of a round's sites was lost, and why: those of one reason together."""

from __future__ import annotations

from collections.abc import Sequence

from fedafd.domain.leaving import some
from fedafd.domain.states import ParticipationState
from fedafd.persistence.models import ClientRow, ParticipationRow

__all__ = ["LOST", "lost_words"]

LOST = (ParticipationState.DROPPED.value, ParticipationState.REJECTED.value)
_MOST_REASONS = 3


def lost_words(parts: Sequence[tuple[ParticipationRow, ClientRow]]) -> str:
    """`dropped: north, south (no sign of progress); rejected: east (...)`; empty where nobody was lost."""
    names: dict[tuple[str, str], list[str]] = {}
    for part, client in parts:
        if part.state in LOST:
            names.setdefault((part.state, part.reason or "no reason recorded"), []).append(client.name)
    reasons = [f"{state}: {some(names[state, reason])} ({reason})" for state, reason in list(names)[:_MOST_REASONS]]
    more = sum(len(group) for group in list(names.values())[_MOST_REASONS:])
    return "; ".join([*reasons, *([f"and {more} more for other reasons"] if more else [])])
