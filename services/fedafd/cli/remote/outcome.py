"""How a round went, in words: how long it took, who delivered, and who did not and why. From what REST tells."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from fedafd.client.answers import Participation, RoundDetails
from fedafd.domain.durations import duration_words

__all__ = ["delivered_words", "duration_words", "missing_words", "phase_words", "round_seconds", "took_words"]

_MOST_NAMED = 20


def round_seconds(answer: RoundDetails) -> float | None:
    """How long the round has been at work, or was; None before it starts."""
    if answer["started_at"] is None:
        return None
    until = datetime.fromisoformat(answer["finished_at"]) if answer["finished_at"] else datetime.now(UTC)
    return max((until - datetime.fromisoformat(answer["started_at"])).total_seconds(), 0.0)


def took_words(begin: str | None, end: str | None, over: str | None) -> str:
    """How long it took, or takes so far; at most until the round was over. A dash before it begins."""
    if begin is None:
        return "-"
    last = end or over
    until = datetime.fromisoformat(last) if last else datetime.now(UTC)
    return duration_words(max((until - datetime.fromisoformat(begin)).total_seconds(), 0.0))


def phase_words(part: Participation, began: str | None, over: str | None) -> str:
    """How long it downloaded, trained and uploaded: `2 s, 40 s, 1 s`; a dash for what is not known."""
    # A control plane of an older version says nothing of them.
    trains, sends, settled = part.get("trains_since"), part.get("sends_since"), part["settled_at"]
    if trains is None:
        return "-"
    times = [(began, trains), (trains, sends or settled), (sends, settled)]
    return ", ".join(took_words(begin, end, over) for begin, end in times)


def delivered_words(answer: RoundDetails) -> str:
    """Who delivered: `delivered: north, south`."""
    names = [part["client"] for part in answer["participations"] if part["state"] == "delivered"]
    return f"delivered: {_some(names) or 'none'}"


def missing_words(answer: RoundDetails) -> str:
    """Who was dropped or rejected, each with the reason; empty where nobody was."""
    parts = []
    for state in ("dropped", "rejected"):
        clients = [
            f"{part['client']} ({part['reason'] or 'no reason recorded'})"
            for part in answer["participations"]
            if part["state"] == state
        ]
        if clients:
            parts.append(f"{state}: {_some(clients)}")
    return "; ".join(parts)


def _some(words: Sequence[str]) -> str:
    more = len(words) - _MOST_NAMED
    return ", ".join(words[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
