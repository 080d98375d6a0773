"""Outlasts a state folder that turns read-only, as a file system does after an error of its disk, until it is mended.

What was trained stays in memory meanwhile, and nothing is sent: what leaves the site is noted before it does.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import TypeVar

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
    pause, since = _FIRST_PAUSE_SECONDS, monotonic()
    while True:
        try:
            return await work()
        except OSError as error:
            if error.errno != errno.EROFS or stop.is_set() or monotonic() - since > _GIVE_UP_SECONDS:
                raise
            _log.error("agent.folder_read_only", reason=str(error), again_in_seconds=pause)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await stop.wait()
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        await tell()
