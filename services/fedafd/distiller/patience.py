"""Outlasts what is away for a while: the object store is asked again until it answers, and the stage goes on there.

An outage is nobody's failure. A stage that waits says so as its activity, keeps its lease, and stops as soon as the
round does; nothing that was computed is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_exponential

from fedafd.domain.errors import StorageFullError, StorageUnavailableError
from fedafd.domain.process_errors import UnreachableError
from fedafd.domain.retrying import sleep_in_slices
from fedafd.telemetry.logging import get_logger

__all__ = ["Patience", "is_outage"]

_LONGEST_PAUSE_SECONDS = 30.0
_OUTAGES = (StorageUnavailableError, StorageFullError, UnreachableError)
_log = get_logger(__name__)
T = TypeVar("T")


def is_outage(error: BaseException) -> bool:
    """Whether something that the stage needs was away or full, which tells nothing about the stage itself."""
    return isinstance(error, _OUTAGES)


class Patience:
    """Waits for `give_up_seconds`, 1 s at first, then twice as long each time up to 30 s.

    After that another distiller, whose line to the store may be a better one, has its try.
    """

    def __init__(self, *, first_seconds: float = 1.0, give_up_seconds: float = 1800.0) -> None:
        self._first, self._give_up = first_seconds, give_up_seconds
        self._tell: Callable[[str], None] = _nobody
        self._words = ""

    @contextmanager
    def telling(self, tell: Callable[[str], None]) -> Iterator[None]:
        """Meanwhile `tell` hears again and again what is waited for; what it raises ends the waiting."""
        self._tell = tell
        try:
            yield
        finally:
            self._tell = _nobody

    def through(self, call: Callable[[], T], *, at_least_seconds: float = 0.0) -> T:
        """What `call` returns, once it does. Raises what it raises if that is no outage, or one that does not end.

        `at_least_seconds`: where more is at stake than a try, how long to wait at least.
        """
        retrying = Retrying(
            retry=retry_if_exception(is_outage),
            wait=wait_exponential(multiplier=self._first, max=_LONGEST_PAUSE_SECONDS),
            stop=stop_after_delay(max(self._give_up, at_least_seconds)),
            before_sleep=self._say,
            sleep=sleep_in_slices(lambda: self._tell(self._words)),
            reraise=True,
        )
        return retrying(call)

    def _say(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        _log.warning("stage.waiting_for_store", reason=str(error), tries=state.attempt_number)
        self._words = (
            "waiting for space in the store" if isinstance(error, StorageFullError) else "waiting for the store"
        )


def _nobody(_: str) -> None:
    pass
