"""Outlasts a state folder that turns read-only, as a file system does after an error of its disk, until it is mended.

What was trained stays in memory meanwhile, and nothing is sent: what leaves the site is noted before it does.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_delay, wait_exponential

from fedafd.telemetry.logging import get_logger

__all__ = ["outlast_read_only"]

_GIVE_UP_SECONDS = 600.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 15.0
_log = get_logger(__name__)
T = TypeVar("T")


async def outlast_read_only(
    work: Callable[[], Awaitable[T]], *, stop: asyncio.Event, tell: Callable[[], Awaitable[None]]
) -> T:
    """What `work` returns, which is done again after a pause, for ten minutes at most, where it met a read-only folder.

    `tell` is called before each time: the site lives; what it raises ends the waiting. Raises what `work` raises.
    """

    async def pause(seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await stop.wait()
        await tell()

    retrying = AsyncRetrying(
        retry=retry_if_exception(lambda error: _is_read_only(error) and not stop.is_set()),
        wait=wait_exponential(multiplier=_FIRST_PAUSE_SECONDS, max=_LONGEST_PAUSE_SECONDS),
        stop=stop_after_delay(_GIVE_UP_SECONDS),
        before_sleep=_say,
        sleep=pause,
        reraise=True,
    )

    async def once() -> T:
        return await work()

    return await retrying(once)


def _is_read_only(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno == errno.EROFS


def _say(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    _log.error("agent.folder_read_only", reason=str(error), again_in_seconds=state.upcoming_sleep)
