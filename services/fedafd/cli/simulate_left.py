"""How long a simulation may still take, from the speed of its second half so far: what a start costs is no speed.

The speed is that of one run. Runs that wait are dealt to the workers as they come free, since the last of them often
has the machine to itself.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fedafd.simulation.experiment import RunKey

__all__ = ["TimeLeft"]

_KNOWN_AFTER_SECONDS = 10.0
"""A speed that was measured over less says nothing."""
_LEAST_SKIP, _SKIP_TIMES = 0.05, 10.0
"""A share that grows by so much, and so many times faster than the speed, was there already: the server's stages that
runs have in common are done once."""


class _Look(NamedTuple):
    """How much was worked at a time, and in how many seconds of runs: two at a time have two a second."""

    at: float
    worked: float
    run_seconds: float


class TimeLeft:
    """Watches the shares of the runs. A share is from 0 to 1, work is counted in runs."""

    def __init__(self, runs: Sequence[RunKey], done: Collection[RunKey]) -> None:
        """`done`: by earlier commands."""
        self._runs = runs
        self._shares: dict[RunKey, float] = dict.fromkeys(done, 1.0)
        self._skipped: dict[RunKey, float] = {}
        """The share of a run that was there already, beside what an earlier command did of it."""
        self._worked, self._run_seconds = 0.0, 0.0
        self._looks: deque[_Look] = deque()
        """From the half of the time since work began."""
        self._begun: float | None = None
        self._workers = 1

    def seconds(self, now: float, done: Collection[RunKey], at_work: Mapping[RunKey, float]) -> float | None:
        """Seconds left at the time `now`; None as long as nobody can know."""
        speed = self._speed(now)
        for key, share in {**at_work, **dict.fromkeys(done, 1.0)}.items():
            self._look(key, share, None if speed is None else speed * len(at_work) * (now - self._looks[-1].at))
        if self._looks:
            self._run_seconds += len(at_work) * (now - self._looks[-1].at)
        self._workers = max(self._workers, len(at_work))
        if at_work and self._begun is None:
            self._begun = now
        if self._begun is None:
            return None
        if not self._worked:
            self._looks.clear()
        self._looks.append(_Look(now, self._worked, self._run_seconds))
        half = self._begun + (now - self._begun) / 2
        while len(self._looks) > 1 and self._looks[1].at <= half:
            self._looks.popleft()
        speed = self._speed(now)
        return None if speed is None else self._work_left(at_work) / speed

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
        """Of one run, a second."""
        if not self._looks or now - self._looks[0].at < _KNOWN_AFTER_SECONDS:
            return None
        first = self._looks[0]
        worked, seconds = self._worked - first.worked, self._run_seconds - first.run_seconds
        return worked / seconds if worked > 0 and seconds > 0 else None

    def _work_left(self, at_work: Collection[RunKey]) -> float:
        """Of the worker that ends last."""
        # Runs that wait will skip what those before them did, but for the first, which did it for all.
        whole = 1 - sum(self._skipped.values()) / max(len(self._skipped), 1)
        busy = [1 - self._shares.get(key, 0.0) for key in self._runs if key in at_work]
        waiting = [
            whole if (share := self._shares.get(key)) is None else 1 - share
            for key in self._runs
            if key not in at_work and self._shares.get(key) != 1
        ]
        free_after = [*busy, *[0.0] * (self._workers - len(busy))]
        heapq.heapify(free_after)
        for work in waiting:
            heapq.heappush(free_after, heapq.heappop(free_after) + work)
        return max(free_after)
