"""How long a simulation may still take: what its workers measured of their stages says it (fedafd.simulation.forecast).

Before they know it is told from the speed of the second half so far, which is that of one run: what a start costs is no
speed. Runs that wait are dealt to the workers as they come free, since the last of them often
has the machine to itself.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fedafd.simulation.experiment import RunKey
    from fedafd.simulation.forecast import WholeRun
    from fedafd.simulation.worker import Now

__all__ = ["TimeLeft"]

_KNOWN_AFTER_SECONDS = 10.0
"""A speed that was measured over less says nothing."""
_LEAST_SKIP, _SKIP_TIMES = 0.05, 10.0
"""A share that grows by the first at once, and by the second times as fast as the speed, was there already: the stages
of the server that runs have in common are done once."""


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
        self._whole: dict[str, WholeRun] = {}
        """By strategy, as last told."""

    def seconds(self, now: float, done: Collection[RunKey], doing: Mapping[RunKey, Now]) -> float | None:
        """Seconds left at the time `now`; None as long as nobody can know."""
        at_work = {key: at.share for key, at in doing.items()}
        by_share = self._by_share(now, done, at_work)
        for at in doing.values():
            self._whole.update(at.whole_runs)
        busy = {key: self._whole_left(key) if at.seconds_left is None else at.seconds_left for key, at in doing.items()}
        waiting = [self._whole_left(key) for key in self._runs if key not in at_work and self._shares.get(key) != 1]
        lefts = [left for left in (*busy.values(), *waiting) if left is not None]
        if not busy or len(lefts) < len(busy) + len(waiting):
            return by_share
        return self._last_end(lefts[: len(busy)], lefts[len(busy) :])

    def _whole_left(self, key: RunKey) -> float | None:
        """Of a run that tells nothing itself, by what its strategy's runs take."""
        whole = self._whole.get(key.strategy)
        if whole is None:
            return None
        first = key == next(run for run in self._runs if run.seed == key.seed)
        return (whole.alone if first else whole.after_others) * (1 - self._shares.get(key, 0.0))

    def _by_share(self, now: float, done: Collection[RunKey], at_work: Mapping[RunKey, float]) -> float | None:
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
        return self._last_end(busy, waiting)

    def _last_end(self, busy: Sequence[float], waiting: Sequence[float]) -> float:
        """When the last worker ends: runs that wait are begun in order by those that are free first."""
        free_after = [*busy, *[0.0] * (self._workers - len(busy))]
        heapq.heapify(free_after)
        for work in waiting:
            heapq.heappush(free_after, heapq.heappop(free_after) + work)
        return max(free_after)
