"""How calls are repeated, by tenacity: after which pauses, and what is worth it. Agents, distillers and clients use it.

Each error tells itself whether a repeat may help (`FedafdError.retryable`); `fedafd.rpc.status.PASSING` says it for
answers of gRPC that carry no code of ours.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from time import monotonic, sleep

from tenacity import RetryCallState, retry_if_exception
from tenacity.wait import wait_base

from fedafd.domain.errors import FedafdError

__all__ = ["FullJitter", "if_retryable", "sleep_in_slices"]

_JITTER = random.SystemRandom()  # apart from the generators of the training, and different in each process
_MOST_DOUBLINGS = 30
_SLICE_SECONDS = 0.5


class FullJitter(wait_base):
    """Random pauses up to a bound that doubles with each try, so that a thousand callers do not come back at once.

    tenacity's own draws from Python's global generator, which a training may have seeded.
    """

    def __init__(self, first_seconds: float, longest_seconds: float) -> None:
        self._first, self._longest = first_seconds, longest_seconds

    def __call__(self, retry_state: RetryCallState) -> float:
        return self.after(retry_state.attempt_number)

    def after(self, tries: int) -> float:
        """Seconds to wait after `tries` failed tries, 1 or more."""
        bound = min(self._longest, self._first * 2 ** min(tries - 1, _MOST_DOUBLINGS))
        return _JITTER.uniform(0, bound)


if_retryable = retry_if_exception(lambda error: isinstance(error, FedafdError) and error.retryable)
"""Repeat what failed with an error that may pass."""


def sleep_in_slices(check: Callable[[], None]) -> Callable[[float], None]:
    """A sleep that calls `check` again and again; what that raises ends the waiting."""

    def pause(seconds: float) -> None:
        end = monotonic() + seconds
        while (left := end - monotonic()) > 0:
            check()
            sleep(min(left, _SLICE_SECONDS))

    return pause
