"""What one client may take of this process at once: calls, commits, and bytes that are held in memory."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from fedafd.domain.errors import TooManyRequestsError
from fedafd.domain.pacing import Pace

__all__ = [
    "MOST_CALLS",
    "ByteBudget",
    "CallCaps",
    "FailedParts",
    "SlowRefusals",
    "Turns",
    "pace_of_clients",
    "refusals_of_strangers",
]

MOST_CALLS = 8
"""Of one client at once. An agent has a poll, a report and one stream; a pool has 15 connections."""
_CALLS_A_SECOND, _BURST = 20.0, 200
"""Of one client. An agent makes about a dozen calls in a round, one each few seconds while it trains."""
_STRANGERS_A_SECOND, _STRANGERS_AT_ONCE = 20.0, 200
_BUDGET_BYTES = 512 << 20
_ROOM_SECONDS = 30.0
"""How long a commit waits for memory before it is refused and has to be repeated."""


class CallCaps:
    """How many calls of each credential run; nothing is asked of the database to refuse one."""

    def __init__(self, most: int = MOST_CALLS) -> None:
        self._most = most
        self._running: Counter[str] = Counter()

    @contextmanager
    def one_of(self, credential: str) -> Iterator[None]:
        """Count a call while it runs. Raises TooManyRequestsError for one too many."""
        if self._running[credential] >= self._most:
            raise TooManyRequestsError(
                f"{self._most} calls with this credential run already; wait for one of them to end", too_many_calls=True
            )
        self._running[credential] += 1
        try:
            yield
        finally:
            self._running[credential] -= 1
            if not self._running[credential]:
                del self._running[credential]


def pace_of_clients() -> Pace:
    """Of calls with the same credential."""
    return Pace(_CALLS_A_SECOND, _BURST)


class SlowRefusals:
    """When calls that are too many are refused: seconds later, and those of one credential one after the other.

    Who keeps hundreds of them open, and calls again as soon as one ends, so makes this process refuse a few a second,
    however many they are. Beyond `most` that wait, calls are refused at once: what waits takes memory.
    """

    def __init__(
        self,
        *,
        least_seconds: float = 3.0,
        per_second: float = 10.0,
        burst: int = 1,
        most_seconds: float = 60.0,
        most: int = 2000,
    ) -> None:
        """`burst`: refusals that come before the pace counts."""
        self._least, self._most_seconds, self._most = least_seconds, most_seconds, most
        self._pace = Pace(per_second, burst)
        self._waiting = 0

    async def wait(self, credential: str) -> None:
        """Return when the call of that credential, or from that address, is to be refused."""
        if self._waiting >= self._most:
            return
        self._waiting += 1
        try:
            after = self._pace.wait_seconds(credential, time.monotonic())
            await asyncio.sleep(min(max(after, self._least), self._most_seconds))
        finally:
            self._waiting -= 1


def refusals_of_strangers() -> SlowRefusals:
    """Of calls whose caller is not known, by address: the first are refused at once, as one mistake is no flood.

    Many sites may be behind one address: calls of those that are known are not slowed.
    """
    return SlowRefusals(least_seconds=0.0, per_second=_STRANGERS_A_SECOND, burst=_STRANGERS_AT_ONCE)


class Turns:
    """One thing at a time for each client; who comes while another runs waits for it."""

    def __init__(self) -> None:
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._asking: Counter[str] = Counter()

    @asynccontextmanager
    async def of(self, client_id: str) -> AsyncIterator[None]:
        """Wait for that client's turn, and hold it."""
        self._asking[client_id] += 1
        try:
            async with self._locks[client_id]:
                yield
        finally:
            self._asking[client_id] -= 1
            if not self._asking[client_id]:
                del self._asking[client_id], self._locks[client_id]


class FailedParts:
    """Clients whose model could not be put together of parts, by round: to try costs reads of any size, so only once.

    Known to this process alone; those that failed longest ago are forgotten first.
    """

    def __init__(self, most: int = 20_000) -> None:
        self._most = most
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()

    def add(self, round_id: str, client_id: str) -> None:
        """It failed."""
        self._known[round_id, client_id] = None
        while len(self._known) > self._most:
            self._known.popitem(last=False)

    def has(self, round_id: str, client_id: str) -> bool:
        """Whether it has failed before."""
        return (round_id, client_id) in self._known


class ByteBudget:
    """Bytes of deliveries that are in memory at once, in the order of asking.

    A delivery that is larger than the whole budget gets its room alone.
    """

    def __init__(self, most_bytes: int = _BUDGET_BYTES, *, wait_seconds: float = _ROOM_SECONDS) -> None:
        self._most = most_bytes
        self._wait_seconds = wait_seconds
        self._bytes_in_use = 0
        self._door = asyncio.Lock()
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def room_for(self, size: int) -> AsyncIterator[None]:
        """Wait for room for `size` bytes, and hold it. Raises TooManyRequestsError when none comes free in time."""
        try:
            async with asyncio.timeout(self._wait_seconds), self._door:
                while self._bytes_in_use and self._bytes_in_use + size > self._most:
                    self._freed.clear()
                    await self._freed.wait()
                self._bytes_in_use += size
        except TimeoutError:
            raise TooManyRequestsError(
                f"deliveries of {self._bytes_in_use} bytes are being checked; commit again in a while"
            ) from None
        try:
            yield
        finally:
            self._bytes_in_use -= size
            self._freed.set()
