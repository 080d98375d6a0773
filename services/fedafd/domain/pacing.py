"""How fast calls may follow each other."""

from __future__ import annotations

__all__ = ["Pace"]

_MOST_PACED = 10_000


class Pace:
    """How fast calls of one caller follow each other: beyond a burst each waits, at its caller's cost.

    A theoretical arrival time for each caller (the generic cell rate algorithm), and nothing else.
    """

    def __init__(self, per_second: float, burst: int) -> None:
        self._gap, self._ahead = 1 / per_second, burst / per_second
        self._due: dict[str, float] = {}

    def wait_seconds(self, caller: str, now: float) -> float:
        """Count a call that comes at `now`; how long it has to wait."""
        if len(self._due) > _MOST_PACED:
            self._due = {name: due for name, due in self._due.items() if due > now}
        due = max(self._due.get(caller, now), now) + self._gap
        self._due[caller] = due
        return max(0.0, due - now - self._ahead)
