"""What the endpoints share."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated

import redis.asyncio
from fastapi import Depends, Request

from fedafd.artifacts.keys import PUBLIC_SETS
from fedafd.control_plane.dashboard.sessions import SessionSigner
from fedafd.control_plane.failed_logins import FailedLogins
from fedafd.control_plane.key_uses import KeyUses
from fedafd.control_plane.models.checked import CheckedObjects
from fedafd.control_plane.models.reads import ModelReads
from fedafd.control_plane.observed import ControlPlaneMetrics
from fedafd.control_plane.oidc.flow import Logins
from fedafd.control_plane.oidc.people import People
from fedafd.control_plane.rates import Rates
from fedafd.control_plane.turns import Turns
from fedafd.persistence.database import Database
from fedafd.rpc.proofs import UsedProofs
from fedafd.storage import ObjectStore, WriteProbe

__all__ = ["WRITES_BELOW", "Context", "ContextDep", "Wakeups"]

WRITES_BELOW = PUBLIC_SETS
"""Prefix of the object store under which this process writes and deletes."""


class Wakeups:
    """Lets streams wait until rows of a federation may have changed; `publish` tells other processes."""

    def __init__(self, publish: Callable[[str], None] = lambda _: None) -> None:
        self._publish = publish
        self._events: dict[str | None, asyncio.Event] = defaultdict(asyncio.Event)

    def changed(self, federation: str) -> None:
        """Rows of the federation changed in a committed transaction of this process."""
        self.heard(federation)
        self._publish(federation)

    def heard(self, federation: str) -> None:
        """Somebody's rows changed: wake who waits for that federation, and who waits for any."""
        for name in (federation, None):
            waiting = self._events.pop(name, None)
            if waiting is not None:
                waiting.set()

    def next_change(self, federation: str | None) -> asyncio.Event:
        """Set at the next change of the federation (None: of any). Take it before looking, so that none is missed."""
        return self._events[federation]


@dataclass(frozen=True, kw_only=True)
class Context:
    """Database, store, wake-ups, and how long things live."""

    database: Database
    store: ObjectStore
    redis: redis.asyncio.Redis | None = None
    wakeups: Wakeups = field(default_factory=Wakeups)
    key_uses: KeyUses = field(default_factory=KeyUses)
    rates: Rates = field(default_factory=Rates)
    used_proofs: UsedProofs = field(default_factory=UsedProofs)
    failed_logins: FailedLogins = field(default_factory=lambda: FailedLogins(per_minute=60))
    requests_per_minute: int = 6000
    """Of one caller."""
    turns: Turns = field(default_factory=Turns)
    sessions: SessionSigner = field(default_factory=lambda: SessionSigner(None))
    writes: WriteProbe = field(init=False)
    objects: CheckedObjects = field(init=False)
    open_streams: Counter[str] = field(default_factory=Counter)
    """Event streams by caller."""
    streams_per_key: int = 20
    people: People | None = None
    """Those whom the identity provider knows; None without one."""
    logins: Logins | None = None
    """Their logins on the dashboard; None where it takes keys alone."""
    model_reads: ModelReads = field(default_factory=ModelReads)
    metrics: ControlPlaneMetrics = field(default_factory=ControlPlaneMetrics)
    invitation_lifetime: timedelta = timedelta(days=7)
    name_authority: bool = True
    """Whether an invitation's token names the server's authority."""
    agents_address: str = "0.0.0.0:7443"
    """Where agents dial; 0.0.0.0: the host that the dashboard was asked by."""
    idempotency_lifetime: timedelta = timedelta(hours=24)
    ticket_lifetime: timedelta = timedelta(minutes=15)
    stream_poll_seconds: float = 1.0
    stream_heartbeat_seconds: float = 15.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "writes", WriteProbe(self.store, below=WRITES_BELOW))
        object.__setattr__(self, "objects", CheckedObjects(self.store))


async def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


ContextDep = Annotated[Context, Depends(_context)]
