"""Who calls, remembered for a moment: a client by its credential, and the part in a round that waits for it.

An agent makes about a dozen calls in a round, most of them within a second. What is remembered is forgotten at once
when a wake-up says that the client, or the whole federation, changed (a revocation is such a change), and after
CALLER_SECONDS anyway, so that a revocation acts soon even where the wake-up was lost; or after WATCHED_SECONDS, where
nothing changed for it while it was looked up, and `round_watch` finds within seconds what a lost wake-up would have
said. Only what was found is trusted: a call about another round than the remembered one asks the database. Callers that
are looked up at the same time, as all are when a round begins, are looked up by one statement.

Who waits for a round is remembered for minutes: while no round of its federation collects, all that changes for it is
that one begins to, or that it is revoked, and `round_watch` finds either within seconds if the wake-up was lost.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from time import monotonic

from fedafd.aggregator.together import Guard, Together
from fedafd.messaging.wakeups import Change
from fedafd.persistence.caller_repository import CallingClient, WaitingPart, callers_by_credential
from fedafd.persistence.database import Database

__all__ = ["CALLER_SECONDS", "WATCHED_SECONDS", "Caller", "CallerLooks", "Callers"]

CALLER_SECONDS = 1.0
WATCHED_SECONDS = 10.0
"""A round of hundreds takes longer than CALLER_SECONDS; each of their calls would ask who it is of."""
_WATCH_IS_NEW_SECONDS = 5.0
"""Two looks of `round_watch`, and one that was late."""
_IDLE_SECONDS = 300.0
_WATCH_SECONDS = 10.0
"""If `round_watch` has not looked for this long, no caller is remembered for longer than CALLER_SECONDS."""
_MOST = 10_000


@dataclass(frozen=True)
class Caller:
    """A client, and its unsettled participation in a round that is collecting."""

    client: CallingClient
    part: WaitingPart | None
    looked_up_at: float = field(default_factory=monotonic)
    steady: bool = False
    """Whether nothing changed for it while it was looked up."""


class Callers:
    """Callers by the hash of their credential."""

    def __init__(self, *, lifetime_seconds: float = CALLER_SECONDS) -> None:
        self._lifetime = lifetime_seconds
        self._by_hash: OrderedDict[str, Caller] = OrderedDict()
        self._hash_of: dict[str, str] = {}
        self._collecting: frozenset[str] = frozenset()
        self._watched_at = float("-inf")
        self._heard: list[Change | None] = []
        """Changes that concern clients, since a look at callers began."""

    def find(self, credential_hash: str) -> Caller | None:
        """Who has that credential, if that was looked up a moment ago."""
        caller, now = self._by_hash.get(credential_hash), monotonic()
        if caller is None:
            return None
        watched = caller.steady and now - self._watched_at < _WATCH_IS_NEW_SECONDS
        lifetime = max(self._lifetime, WATCHED_SECONDS) if watched else self._lifetime
        return caller if now - caller.looked_up_at < lifetime else None

    def idle(self, credential_hash: str) -> Caller | None:
        """Who has that credential, if no round waited for it when it was looked up, and nothing changed since."""
        caller, now = self._by_hash.get(credential_hash), monotonic()
        if caller is None or caller.part is not None or not caller.steady or now - caller.looked_up_at > _IDLE_SECONDS:
            return None
        unseen = now - self._watched_at > _WATCH_SECONDS or caller.client.federation_id in self._collecting
        return None if unseen else caller

    def watched(self, collecting: Collection[str]) -> None:
        """All changes of rounds and revocations have been heard of; federations of which a round collects."""
        self._collecting, self._watched_at = frozenset(collecting), monotonic()

    def of(self, client_id: str) -> Caller | None:
        """The remembered caller of a client."""
        return self.find(self._hash_of.get(client_id, ""))

    def begin_look(self) -> None:
        """Callers are looked up from here on; one look at a time."""
        self._heard.clear()

    def is_steady(self, client: CallingClient) -> bool:
        """Whether nothing changed for that client since the look began."""
        return not any(_concerns(change, client) for change in self._heard)

    def keep(self, credential_hash: str, caller: Caller) -> None:
        """Remember who was looked up just now. `caller.looked_up_at` is from before the look."""
        self._by_hash[credential_hash] = caller
        self._by_hash.move_to_end(credential_hash)
        self._hash_of[caller.client.id] = credential_hash
        while len(self._by_hash) > _MOST:
            _, oldest = self._by_hash.popitem(last=False)
            self._hash_of.pop(oldest.client.id, None)

    def forget(self, change: Change | None) -> None:
        """Something changed (None: anything); what it concerns is looked up again."""
        if change is None or change.clients is None or change.clients:
            self._heard.append(change)
            if len(self._heard) > _MOST:
                self._heard[:] = [None]  # anything, rather than to lose one of them
        if change is None:
            gone = list(self._by_hash.values())
        elif change.clients is None:
            gone = [caller for caller in self._by_hash.values() if caller.client.federation_id == change.federation]
        else:
            hashes = (self._hash_of.get(client, "") for client in change.clients)
            gone = [self._by_hash[credential] for credential in hashes if credential in self._by_hash]
        for caller in gone:
            self._by_hash.pop(self._hash_of.pop(caller.client.id, ""), None)


class CallerLooks:
    """Looks callers up in the database, those that call at the same time together."""

    def __init__(self, database: Database, remembered: Callers, guard: Guard) -> None:
        self._database, self._remembered = database, remembered
        self._together: Together[str, Caller] = Together(self._look, guard=guard)

    async def of(self, credential_hash: str) -> Caller:
        """Who has that credential, as of a moment after the call. Raises UnauthenticatedError."""
        return await self._together.get(credential_hash)

    async def _look(self, credential_hashes: Sequence[str]) -> dict[str, Caller | Exception]:
        now = monotonic()
        self._remembered.begin_look()
        async with self._database.snapshot() as session:
            rows = await callers_by_credential(session, credential_hashes)
        callers: dict[str, Caller | Exception] = {}
        for credential_hash, row in rows.items():
            if isinstance(row, Exception):
                callers[credential_hash] = row
                continue
            callers[credential_hash] = caller = Caller(
                *row, looked_up_at=now, steady=self._remembered.is_steady(row[0])
            )
            self._remembered.keep(credential_hash, caller)
        return callers


def _concerns(change: Change | None, client: CallingClient) -> bool:
    if change is None:
        return True
    return change.federation == client.federation_id and (change.clients is None or client.id in change.clients)
