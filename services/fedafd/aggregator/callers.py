"""Who calls, remembered for a moment: a client by its credential, and the part in a round that waits for it.

An agent makes about a dozen calls in a round, most of them within a second. What is remembered is forgotten at once
when a wake-up says that the client, or the whole federation, changed (a revocation is such a change), and after
CALLER_SECONDS anyway, so that a revocation acts soon even where the wake-up was lost. Only what was found is
trusted: a call about another round than the remembered one asks the database. Callers that are looked up at the same
time, as all are when a round begins, are looked up by one statement.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic

from fedafd.aggregator.together import Guard, Together
from fedafd.messaging.wakeups import Change
from fedafd.persistence.client_repository import callers_by_credential
from fedafd.persistence.database import Database
from fedafd.persistence.models import ClientRow, ParticipationRow

__all__ = ["CALLER_SECONDS", "Caller", "CallerLooks", "Callers"]

CALLER_SECONDS = 1.0
_MOST = 10_000


@dataclass(frozen=True)
class Caller:
    """A client, and its unsettled participation in a round that is collecting."""

    client: ClientRow
    part: ParticipationRow | None
    found_at: float = field(default_factory=monotonic)


class Callers:
    """Callers by the hash of their credential."""

    def __init__(self, *, lifetime_seconds: float = CALLER_SECONDS) -> None:
        self._lifetime = lifetime_seconds
        self._by_hash: OrderedDict[str, Caller] = OrderedDict()
        self._hash_of: dict[str, str] = {}

    def find(self, credential_hash: str) -> Caller | None:
        """Who has that credential, if that was looked up a moment ago."""
        caller = self._by_hash.get(credential_hash)
        return caller if caller is not None and monotonic() - caller.found_at < self._lifetime else None

    def of(self, client_id: str) -> Caller | None:
        """The remembered caller of a client."""
        return self.find(self._hash_of.get(client_id, ""))

    def keep(self, credential_hash: str, caller: Caller) -> None:
        """Remember who was looked up just now. `caller.found_at` is from before the look."""
        self._by_hash[credential_hash] = caller
        self._by_hash.move_to_end(credential_hash)
        self._hash_of[caller.client.id] = credential_hash
        while len(self._by_hash) > _MOST:
            _, oldest = self._by_hash.popitem(last=False)
            self._hash_of.pop(oldest.client.id, None)

    def forget(self, change: Change | None) -> None:
        """Something changed (None: anything); what it concerns is looked up again."""
        if change is None:
            gone = list(self._by_hash.values())
        elif change.clients is None:
            gone = [each for each in self._by_hash.values() if each.client.federation_id == change.federation]
        else:
            gone = [each for each in map(self.of, change.clients) if each is not None]
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
        async with self._database.snapshot() as session:
            rows = await callers_by_credential(session, credential_hashes)
        found: dict[str, Caller | Exception] = {}
        for credential_hash, row in rows.items():
            if isinstance(row, Exception):
                found[credential_hash] = row
                continue
            found[credential_hash] = caller = Caller(*row, found_at=now)
            self._remembered.keep(credential_hash, caller)
        return found
