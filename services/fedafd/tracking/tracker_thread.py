"""One tracker in a thread of its own, so that it may fail or hang and nobody waits for it.

Nothing queues up: the thread is shown the run's rounds as they are, and what a tracker was not told yet is the
difference to what it was told.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from fedafd.tracking.run import Tracker

__all__ = ["HANGS_SECONDS", "TrackerThread"]

HANGS_SECONDS = 60.0
"""How long a tracker may work on one round's points before it is reported as hanging."""
_SECRET = re.compile(r"(\w://)[^/\s@]+@")
"""Name and password in an address; libraries quote it in their errors."""
Rounds = Mapping[int, Mapping[str, float]]


class TrackerThread:
    """Starts the tracker with the first round that is shown, and again after it failed."""

    def __init__(self, name: str, start: Callable[[], Tracker], tell: Callable[[str], None]) -> None:
        """`tell` gets one line when the tracker stops working, and none again until it has worked in between."""
        self._name, self._start, self._tell = name, start, tell
        self._changed = threading.Condition()
        self._shown: Rounds | None = None
        self._ending = False
        self._busy_since: float | None = None
        self._warned = False
        self._sent: dict[int, dict[str, float]] = {}
        self._tracker: Tracker | None = None
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def show(self, rounds: Rounds) -> None:
        """The rounds as they are now. Returns at once."""
        with self._changed:
            self._shown = {number: dict(metrics) for number, metrics in rounds.items()}
            self._changed.notify()
            busy = self._busy_since
        if busy is not None and time.monotonic() - busy > HANGS_SECONDS:
            self._warn(f"has not answered for {HANGS_SECONDS:.0f} seconds")

    def end(self) -> None:
        """Write what was shown, then end."""
        with self._changed:
            self._ending = True
            self._changed.notify()

    def wait(self, seconds: float) -> None:
        """Wait for that, and no longer."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._warn("did not end in time; its last points may be missing")

    def _work(self) -> None:
        while (rounds := self._next()) is not None:
            try:
                self._log(rounds)
            except Exception as error:  # a tracker is other people's code, and the run is worth more
                self._close()
                self._warn(_in_words(error))
            else:
                self._warned = False
        self._close()

    def _next(self) -> Rounds | None:
        with self._changed:
            self._busy_since = None
            self._changed.wait_for(lambda: self._shown is not None or self._ending)
            rounds, self._shown = self._shown, None
            self._busy_since = time.monotonic()
        return rounds

    def _log(self, rounds: Rounds) -> None:
        if self._tracker is None:
            self._sent.clear()
            self._tracker = self._start()
        for number, metrics in sorted(rounds.items()):
            shown = self._sent.setdefault(number, {})
            new = {name: value for name, value in metrics.items() if name not in shown}
            if new:
                self._tracker.log(number, new)
                shown |= new

    def _close(self) -> None:
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            with suppress(Exception):
                tracker.close()

    def _warn(self, why: str) -> None:
        with self._changed:
            was_warned, self._warned = self._warned, True
        if not was_warned:
            self._tell(f"tracker {self._name}: {why}; the run goes on without it")


def _in_words(error: Exception) -> str:
    named = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    return _SECRET.sub(r"\1...@", " ".join(named.split())) or type(error).__name__
