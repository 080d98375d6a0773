"""What the services of one aggregator share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from fedafd.aggregator.acceptance import Acceptances
from fedafd.aggregator.announced_uploads import AnnouncedUploads
from fedafd.aggregator.announcing import Announcements
from fedafd.aggregator.callers import CallerLooks, Callers
from fedafd.aggregator.claiming import Mover
from fedafd.aggregator.cut_off import Waiting
from fedafd.aggregator.direct_uploads import DirectUploads
from fedafd.aggregator.holding import Holds
from fedafd.aggregator.limits import (
    ByteBudget,
    CallCaps,
    FailedParts,
    SlowRefusals,
    Turns,
    pace_of_clients,
    refusals_of_strangers,
)
from fedafd.aggregator.metrics import AggregatorMetrics
from fedafd.aggregator.progress import ProgressBook
from fedafd.aggregator.proofs import Proofs
from fedafd.aggregator.renewals import Renewals
from fedafd.aggregator.round_facts import Once, RoundFacts
from fedafd.aggregator.shared_reads import SharedReads
from fedafd.aggregator.transfers import Transfers
from fedafd.aggregator.wakeups import Wakeups
from fedafd.artifacts.keys import FEDERATIONS
from fedafd.domain.pacing import Pace
from fedafd.persistence.database import Database
from fedafd.rpc.authority import Authority
from fedafd.storage import ObjectStore, WriteProbe

__all__ = ["WRITES_BELOW", "Context", "Wakeups"]

WRITES_BELOW = FEDERATIONS
"""Prefix of the object store under which this process writes and deletes."""


@dataclass(frozen=True)
class Context:
    """Database, store, wake-ups and presence; nothing that a restart would lose, but half a second of progress."""

    database: Database
    store: ObjectStore
    internal_token: str
    wakeups: Wakeups = field(default_factory=Wakeups)
    stage_lease: timedelta = timedelta(seconds=15)
    """A distiller that does not renew its claim within it has lost the stage."""
    session_lease: timedelta = timedelta(seconds=30)
    """An agent that does not call within it has lost its session: another one of the same client may begin."""
    seen: Callable[[str, str, str], None] | None = None
    """Hears of every call of an agent: federation's id, client's name, what the agent is doing."""
    tell_skew: Callable[[float, datetime], None] | None = None
    """Hears how far this machine's clock is ahead of the database's, as long as it differs; takes milliseconds."""
    authority: Authority | None = None
    """Signs clients' certificates; None: agents have no keys, as before there were any."""
    certificate_lifetime: timedelta = timedelta(days=30)
    bound_only: bool = False
    """Credentials that are bound to no key, of agents from before there were any, are refused."""
    metrics: AggregatorMetrics = field(default_factory=AggregatorMetrics)
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once this process finishes what runs and takes nothing new."""
    callers: Callers = field(default_factory=Callers)
    rounds: RoundFacts = field(default_factory=RoundFacts)
    uploads: AnnouncedUploads = field(default_factory=AnnouncedUploads)
    digests: Once[str, bytes] = field(default_factory=Once)
    """Digests of a blob's blocks, by its hash."""
    calls: CallCaps = field(default_factory=CallCaps)
    pace: Pace = field(default_factory=pace_of_clients)
    refusals: SlowRefusals = field(default_factory=SlowRefusals)
    strangers: SlowRefusals = field(default_factory=refusals_of_strangers)
    direct: DirectUploads = field(default_factory=DirectUploads)
    transfers: Transfers = field(default_factory=Transfers)
    waiting: Waiting = field(default_factory=Waiting)
    commits: Turns = field(default_factory=Turns)
    mover: Mover = field(default_factory=Mover)
    in_memory: ByteBudget = field(default_factory=ByteBudget)
    failed_parts: FailedParts = field(default_factory=FailedParts)
    proofs: Proofs = field(init=False)
    looks: CallerLooks = field(init=False)
    holds: Holds = field(init=False)
    announcements: Announcements = field(init=False)
    acceptances: Acceptances = field(init=False)
    progress: ProgressBook = field(init=False)
    renewals: Renewals = field(init=False)
    writes: WriteProbe = field(init=False)
    downloads: SharedReads = field(init=False)
    store_trouble: list[str] = field(default_factory=list)
    """Why the store takes no writes at the moment, if so: for the reason of a round that fails meanwhile."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "proofs", Proofs(self.authority))
        object.__setattr__(self, "looks", CallerLooks(self.database, self.callers, self.waiting.one))
        object.__setattr__(self, "holds", Holds(self.database, self.waiting.one))
        object.__setattr__(self, "announcements", Announcements(self.database, self.waiting.one))
        object.__setattr__(self, "acceptances", Acceptances(self.database, self.waiting.one))
        object.__setattr__(self, "progress", ProgressBook(self.database, self.wakeups))
        object.__setattr__(self, "renewals", Renewals(self.database))
        object.__setattr__(self, "writes", WriteProbe(self.store, below=WRITES_BELOW))
        object.__setattr__(self, "downloads", SharedReads(self.store))
        self.wakeups.first_tell(self.callers.forget)
        self.wakeups.first_tell(self.rounds.forget)

    def drain(self) -> None:
        """Take nothing new from here on; long polls are answered."""
        self.draining.set()
        self.metrics.draining.set(1)
        self.wakeups.wake()
