"""Requests of one caller take turns: a few are worked on at once, and the others wait, in the order of asking.

This process answers in one thread, so that sixty requests of one key at once made everybody else's wait for sixty. A
request has no turn while its body comes in, while its answer goes out, and while it waits for another process or for
the object store, of which each caller has a few threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

from fedafd.domain.errors import TooManyRequestsError

__all__ = ["AT_ONCE", "CROWD", "STORE_AT_ONCE", "Turn", "Turns", "in_store", "without_turn"]

AT_ONCE = 2
"""Requests of one caller that are worked on at once."""
CROWD = 16
"""A caller with more requests under way gets one turn at a time: no program that means well has as many."""
STORE_AT_ONCE = 4
"""Threads that one caller's requests have in the object store. All have forty (anyio's); probes have others."""
_MOST = 500
"""Of one caller, with those that wait."""
_WAIT_SECONDS = 30.0
_own_turn: ContextVar[Turn | None] = ContextVar("turn", default=None)
T = TypeVar("T")


class _Line:
    """The requests of one caller."""

    def __init__(self, at_once: int) -> None:
        self.slots, self.crowd = asyncio.Semaphore(at_once), asyncio.Semaphore(1)
        self.store = asyncio.Semaphore(STORE_AT_ONCE)
        self.present = 0


class Turn:
    """One request's right to be worked on, which it gives away while it waits for something else."""

    def __init__(self, line: _Line) -> None:
        self.line = line
        # From the outermost to the innermost.
        self._doors = [line.crowd, line.slots] if line.present > CROWD else [line.slots]
        self._taking = asyncio.Lock()  # a framework listens and answers in two tasks
        self._is_held = self._is_over = False

    async def take(self) -> None:
        """Wait for a place among the caller's requests, unless this one has one or needs none any more."""
        async with self._taking:
            if self._is_held or self._is_over:
                return
            async with AsyncExitStack() as stack:
                for door in self._doors:
                    await door.acquire()
                    stack.callback(door.release)
                if self._is_over:  # while it waited
                    return
                stack.pop_all()
            self._is_held = True

    def leave(self) -> None:
        """Let the next one go on."""
        if self._is_held:
            self._is_held = False
            for door in reversed(self._doors):
                door.release()

    def end(self) -> None:
        """Leave for good."""
        self._is_over = True
        self.leave()


class Turns:
    """The turns of all callers. Who has no request here takes no memory."""

    def __init__(self, *, most: int = _MOST, wait_seconds: float = _WAIT_SECONDS) -> None:
        self._most, self._wait_seconds = most, wait_seconds
        self._lines: dict[str, _Line] = {}

    def callers(self) -> list[str]:
        """Whose requests are under way."""
        return sorted(self._lines)

    @asynccontextmanager
    async def of(self, caller: str, at_once: int = AT_ONCE) -> AsyncIterator[Turn]:
        """A turn of that caller's. Raises TooManyRequestsError for one too many, and after too long a wait."""
        line = self._lines.setdefault(caller, _Line(at_once))
        if line.present >= self._most:
            raise TooManyRequestsError(
                f"{self._most} requests of yours are under way; send the next one when some are answered",
                retry_after_seconds=1,
            )
        line.present += 1
        turn = Turn(line)
        try:
            await self._first(turn)
            token = _own_turn.set(turn)
            try:
                yield turn
            finally:
                _own_turn.reset(token)
        finally:
            turn.end()
            line.present -= 1
            if not line.present:
                del self._lines[caller]

    async def _first(self, turn: Turn) -> None:
        try:
            async with asyncio.timeout(self._wait_seconds):
                await turn.take()
        except TimeoutError:
            raise TooManyRequestsError(
                f"requests of yours were under way for {self._wait_seconds:g} s, and this one waited for them all the"
                " while; send fewer at once",
                retry_after_seconds=1,
            ) from None


@asynccontextmanager
async def without_turn() -> AsyncIterator[None]:
    """While the request, if it has a turn, waits for something that costs this process nothing."""
    turn = _own_turn.get()
    if turn is None:
        yield
        return
    turn.leave()
    yield
    await turn.take()


async def in_store(work: Callable[..., T], *given: object) -> T:
    """What `work` returns, which reads or writes the object store: in a thread, and meanwhile without the turn."""
    turn = _own_turn.get()
    if turn is None:
        return await run_in_threadpool(work, *given)
    async with without_turn(), turn.line.store:
        return await run_in_threadpool(work, *given)
