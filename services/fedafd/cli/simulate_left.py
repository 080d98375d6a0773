"""How long a simulation may still take, from the speed of its second half so far: what a start costs is no speed."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedafd.simulation.experiment import RunKey

__all__ = ["TimeLeft"]

_KNOWN_AFTER_SECONDS = 10.0
"""A speed that was measured over less says nothing."""
_LEAST_SKIP, _SKIP_TIMES = 0.05, 10.0
"""A share that grows by so much, and so many times faster than the speed, was there already: the server's stages that
runs have in common are done once."""


class TimeLeft:
    """Watches the shares of the runs. A share is from 0 to 1, work is counted in runs."""

    def __init__(self, runs: Sequence[RunKey], done: Collection[RunKey]) -> None:
        """`done`: by earlier commands."""
        self._runs = runs
        self._shares: dict[RunKey, float] = dict.fromkeys(done, 1.0)
        self._skipped: dict[RunKey, float] = {}
        """The share of a run that was there already, beside what an earlier command did of it."""
        self._worked = 0.0
        self._looks: deque[tuple[float, float]] = deque()
        """When was how much worked; from the half of the time since work began."""
        self._begun: float | None = None

    def seconds(self, now: float, done: Collection[RunKey], at_work: Mapping[RunKey, float]) -> float | None:
        """Seconds left at the time `now`; None as long as nobody can know."""
        speed = self._speed(now)
        for key, share in {**at_work, **dict.fromkeys(done, 1.0)}.items():
            self._look(key, share, None if speed is None else speed * (now - self._looks[-1][0]))
        if at_work and self._begun is None:
            self._begun = now
        if self._begun is None:
            return None
        if not self._worked:
            self._looks.clear()
        self._looks.append((now, self._worked))
        half = self._begun + (now - self._begun) / 2
        while len(self._looks) > 1 and self._looks[1][0] <= half:
            self._looks.popleft()
        speed = self._speed(now)
        return None if speed is None else self._work_left() / speed

    def _look(self, key: RunKey, share: float, expected: float | None) -> None:
        before = self._shares.get(key)
        self._shares[key] = share
        if before is None and share < 1:  # what an earlier command did
            return
        grown = share - (before or 0.0)
        if expected is not None and grown > max(_LEAST_SKIP, _SKIP_TIMES * expected):
            self._skipped[key] = self._skipped.get(key, 0.0) + grown
        else:
            self._worked += max(grown, 0.0)

    def _speed(self, now: float) -> float | None:
        if not self._looks or now - self._looks[0][0] < _KNOWN_AFTER_SECONDS:
            return None
        begun, worked = self._looks[0]
        return (self._worked - worked) / (now - begun) if self._worked > worked else None

    def _work_left(self) -> float:
        # Runs that wait will skip what those before them did, but for the first, which did it for all.
        whole = 1 - sum(self._skipped.values()) / max(len(self._skipped), 1)
        return sum(whole if (share := self._shares.get(key)) is None else 1 - share for key in self._runs)
