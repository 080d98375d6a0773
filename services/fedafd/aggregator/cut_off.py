"""Calls that wait for a database that this aggregator no longer reaches: they are ended, so that their callers move on.

A line that swallows packets lets a call wait until its caller gives up, which may be a minute. Another aggregator may
well reach the database; whoever is told in time asks that one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from fedafd.domain.errors import DatabaseUnavailableError

__all__ = ["Waiting"]


class Waiting:
    """The calls that run at the moment, and since when."""

    def __init__(self) -> None:
        self._since: dict[asyncio.Task[Any], float] = {}
        self._ended: set[asyncio.Task[Any]] = set()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Around a call. Raises DatabaseUnavailableError into it when `end` gives it up."""
        task = asyncio.current_task()
        assert task is not None
        self._since[task] = monotonic()
        try:
            yield
        except asyncio.CancelledError:
            if task not in self._ended:
                raise
            task.uncancel()
            raise DatabaseUnavailableError("the database does not answer; another aggregator may reach it") from None
        finally:
            del self._since[task]
            self._ended.discard(task)

    def end(self, since: float) -> None:
        """Give up those that run since `since` or longer, in seconds of the monotonic clock."""
        for task in [task for task, began in self._since.items() if began <= since and task not in self._ended]:
            self._ended.add(task)
            task.cancel()
