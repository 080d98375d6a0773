"""Whether this distiller still receives: messages that wait while it is idle tell that it does not.

What the library that receives cannot see of itself is seen from outside: another connection to the broker asks how many
messages wait. A distiller that is idle for long while some do is deaf, whatever the cause, and ends, so that its
supervisor starts it again.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from time import monotonic

from fedafd.distiller.metrics import DistillerMetrics
from fedafd.messaging.queue_depth import QueueDepth
from fedafd.telemetry.logging import get_logger

__all__ = ["DEAF_EXIT_CODE", "Hearing"]

DEAF_EXIT_CODE = 3
"""Of a distiller that ended because it did not receive, or could not go on to."""
_LOOK_SECONDS = 5.0
_GRACE_SECONDS = 30.0
_log = get_logger(__name__)


class Hearing:
    """Watches from a thread of its own. `busy` tells whether a stage is at hand, or none may be taken."""

    def __init__(
        self,
        queue: QueueDepth,
        busy: Callable[[], bool],
        metrics: DistillerMetrics,
        *,
        deaf_seconds: float = 90.0,
        look_seconds: float = _LOOK_SECONDS,
    ) -> None:
        """Messages may wait for `deaf_seconds` beside an idle distiller: longer than Celery waits to connect again."""
        self._queue, self._busy, self._metrics = queue, busy, metrics
        self._deaf_seconds, self._look_seconds = deaf_seconds, look_seconds
        self._overlooked_since: float | None = None
        self.deaf = False

    def start(self, end: Callable[[], None] | None = None) -> None:
        """Watch until this distiller is deaf, then call `end`: by default the process ends as on SIGTERM."""
        threading.Thread(target=self._watch, args=(end or _end_process,), name="hearing", daemon=True).start()

    def took(self) -> None:
        """A message arrived."""
        self._overlooked_since = None

    def look(self) -> bool:
        """Look once; True if this distiller does not receive."""
        waiting = self._queue.look()
        if self._busy() or not waiting:
            self._overlooked_since = None
            return False
        since = self._overlooked_since = self._overlooked_since or monotonic()
        self.deaf = monotonic() - since >= self._deaf_seconds
        return self.deaf

    def _watch(self, end: Callable[[], None]) -> None:
        pause = threading.Event()
        while not self.look():
            pause.wait(self._look_seconds)
        self._metrics.deaf.set(1)
        _log.error("distiller.deaf", reason="messages wait in the broker and none arrives; ending to be started again")
        end()


def _end_process() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(_GRACE_SECONDS)
    # The main thread does not even hear a signal.
    os._exit(DEAF_EXIT_CODE)
