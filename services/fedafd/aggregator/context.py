"""What the services of one aggregator share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from fedafd.aggregator.metrics import AggregatorMetrics
from fedafd.persistence.database import Database
from fedafd.storage import ObjectStore

__all__ = ["Context", "Wakeups"]


class Wakeups:
    """Lets tasks of this process wait until something may have changed; `publish` also tells other processes."""

    def __init__(self, publish: Callable[[str], None] = lambda _: None) -> None:
        self._publish = publish
        self._event = asyncio.Event()

    def changed(self, federation_id: str) -> None:
        """Rows of the federation changed in a committed transaction."""
        self.wake()
        self._publish(federation_id)

    def wake(self) -> None:
        """Wake all that wait in this process."""
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self, seconds: float) -> None:
        """Return when something may have changed, or after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return


@dataclass(frozen=True)
class Context:
    """Database, store, wake-ups and presence; nothing that a restart would lose."""

    database: Database
    store: ObjectStore
    internal_token: str
    wakeups: Wakeups = field(default_factory=Wakeups)
    stage_lease: timedelta = timedelta(seconds=15)
    """A distiller that does not renew its claim for so long has lost the stage."""
    session_lease: timedelta = timedelta(seconds=30)
    """An agent that does not call for so long has lost its session: another one of the same client may begin."""
    seen: Callable[[str, str, str], None] | None = None
    """Hears of every call of an agent: federation's id, client's name, what the agent is doing."""
    metrics: AggregatorMetrics = field(default_factory=AggregatorMetrics)
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once this process finishes what runs and takes nothing new."""

    def drain(self) -> None:
        """Take nothing new from here on; long polls are answered."""
        self.draining.set()
        self.metrics.draining.set(1)
        self.wakeups.wake()
