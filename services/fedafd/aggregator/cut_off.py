"""Calls that wait for a database that this aggregator no longer reaches: they are ended, so that their callers move on.

A line that swallows packets lets a call wait until its caller gives up, which may be a minute. Another aggregator may
well reach the database; whoever is told in time asks that one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fedafd.domain.errors import DatabaseUnavailableError

__all__ = ["Waiting"]


_WORDS = "the database does not answer; another aggregator may reach it"


class Waiting:
    """The calls that run at the moment."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._ended: set[asyncio.Task[Any]] = set()
        self._cut_off = False

    @contextmanager
    def one(self) -> Iterator[None]:
        """Around a call. Raises DatabaseUnavailableError, also into one that runs, while this process is cut off."""
        if self._cut_off:
            raise DatabaseUnavailableError(_WORDS)
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if task not in self._ended:
                raise
            task.uncancel()
            raise DatabaseUnavailableError(_WORDS) from None
        finally:
            self._running.discard(task)
            self._ended.discard(task)

    def cut_off(self, really: bool) -> None:
        """Hear whether the database is out of reach."""
        self._cut_off = really
        for task in (self._running - self._ended) if really else ():
            self._ended.add(task)
            task.cancel()
