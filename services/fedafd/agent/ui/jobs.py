"""Work that takes longer than a page may: in a thread of its own, one at a time, with its progress for the page."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from fedafd.datasets.report import Progress
from fedafd.domain.errors import FedafdError
from fedafd.telemetry.logging import get_logger

__all__ = ["Job", "JobView"]

T = TypeVar("T")
_WAIT_SECONDS = 5.0
_log = get_logger(__name__)


class _StopRequestedError(Exception):
    """The page's server is stopping."""


@dataclass(frozen=True)
class JobView:
    """How far a job is."""

    running: bool
    done: int
    total: int
    problem: str
    """Why the last one failed; empty if it did not."""


class Job(Generic[T]):
    """A kind of work. `result` is what the last one that ended well gave; None before."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._done, self._total = 0, 0
        self._problem = ""
        self.result: T | None = None

    def start(self, work: Callable[[Progress], T]) -> bool:
        """Begin, unless one is running: False then. `work` is told to stop by an error from its progress."""
        with self._lock:
            if self._stop.is_set() or (self._thread is not None and self._thread.is_alive()):
                return False
            self._done, self._total, self._problem = 0, 0, ""
            self._thread = threading.Thread(target=self._run, args=(work,), name=self._name, daemon=True)
            self._thread.start()
            return True

    def view(self) -> JobView:
        """As of now."""
        running = self._thread is not None and self._thread.is_alive()
        return JobView(running, self._done, self._total, self._problem)

    def wait(self, seconds: float = _WAIT_SECONDS) -> None:
        """Until the job that is running has ended, but not longer."""
        if self._thread is not None:
            self._thread.join(seconds)

    def stop(self) -> None:
        """End what is running, and start no more."""
        self._stop.set()
        self.wait()

    def _run(self, work: Callable[[Progress], T]) -> None:
        try:
            self.result = work(self._progress)
        except _StopRequestedError:
            return
        except (FedafdError, OSError) as error:
            self._problem = str(error)
        except Exception as error:
            _log.exception("ui.job_failed", job=self._name)
            self._problem = f"{type(error).__name__}: {error}"

    def _progress(self, done: int, total: int) -> None:
        if self._stop.is_set():
            raise _StopRequestedError
        self._done, self._total = done, total
