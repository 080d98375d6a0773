"""Failed logins: slowed and then refused for each address and each key, logged, and in the audit log.

An address may fail a limited number of times a minute. Beyond that, its secrets are refused unseen, so that nobody can
try many. Those that opened something lately are not, so that callers who share the address, as behind a proxy, go on. A
secret of a key that was revoked or has expired counts for the key too, from wherever it comes. What is remembered is
bounded, and log and audit log tell of a burst once a minute: nobody fills disk or database by failing.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import OrderedDict
from time import monotonic
from typing import TypeVar

from fedafd.control_plane.rates import MOST_REMEMBERED, Rates
from fedafd.control_plane.turns import without_turn
from fedafd.domain.errors import FedafdError, TooManyRequestsError
from fedafd.domain.secrets import hash_secret
from fedafd.persistence.caller_address import asked_from
from fedafd.persistence.database import Database
from fedafd.persistence.event_repository import record_event
from fedafd.telemetry.logging import get_logger

__all__ = ["FailedLogins", "network_of"]

_TRUSTED_SECONDS = 3600.0
_EVENT_SECONDS = 60.0
"""An address, or a key, makes one event a minute, with the number of its failures."""
_MOST_EVENTS = 20
"""Addresses and keys that are written at once; the others wait."""
_SLOW_FROM = 0.75
"""Of the failures that are allowed; from there on each is answered later than the one before."""
_SLOWEST_SECONDS = 0.25
_log = get_logger(__name__)
T = TypeVar("T")


class FailedLogins:
    """Failures of the last minutes by address, and by key."""

    def __init__(self, per_minute: int, rates: Rates | None = None) -> None:
        self._per_minute = per_minute
        self._rates = rates or Rates()
        self._opened: OrderedDict[str, tuple[float, str]] = OrderedDict()
        """When, and whose it is, by hash of the secret."""
        self._ended: OrderedDict[str, str] = OrderedDict()
        """Keys that were revoked or have expired, by hash of the secret."""
        self._unwritten: OrderedDict[str, int] = OrderedDict()
        self._written: OrderedDict[str, float] = OrderedDict()

    def known(self, secret: str) -> str | None:
        """Whose secret it was lately; None for one that opened nothing lately."""
        at, caller = self._opened.get(hash_secret(secret), (0.0, ""))
        return caller if caller and monotonic() - at < _TRUSTED_SECONDS else None

    async def check(self, address: str, secret: str) -> None:
        """Raise TooManyRequestsError for a secret that opened nothing lately, from where too many were wrong."""
        if self.known(secret):
            return
        ended = self._ended.get(hash_secret(secret))
        for who in (network_of(address), *([f"key:{ended}"] if ended else [])):
            seconds = (await self._rates.seen(_name(who))).wait_seconds(self._per_minute)
            if seconds:
                self._note(who)
                raise TooManyRequestsError(
                    f"too many wrong keys from {address}; wait a minute, and check the key that your programs use",
                    retry_after_seconds=seconds,
                )

    async def failed(self, address: str, secret: str, key: str | None) -> None:
        """A secret from there was wrong; `key` is the one that it opened before that was revoked or had expired."""
        await self._count(network_of(address))
        if key is not None:
            _keep(self._ended, hash_secret(secret), key)
            await self._count(f"key:{key}")
        share = (await self._rates.seen(_name(network_of(address)))).rate / self._per_minute
        if share > _SLOW_FROM:
            async with without_turn():
                await asyncio.sleep(_SLOWEST_SECONDS * min(1.0, (share - _SLOW_FROM) / (1 - _SLOW_FROM)))

    def opened(self, secret: str, caller: str) -> None:
        """The secret is that caller's."""
        _keep(self._opened, hash_secret(secret), (monotonic(), caller))

    async def write(self, database: Database) -> None:
        """Write what log and audit log lack; what the database does not take stays for the next time."""
        now = monotonic()
        due = [who for who in self._unwritten if now - self._written.get(who, -_EVENT_SECONDS) >= _EVENT_SECONDS]
        counts = {who: self._unwritten.pop(who) for who in due[:_MOST_EVENTS]}
        if not counts:
            return
        try:
            async with database.transaction() as session:
                for who, count in counts.items():
                    with asked_from(None if _is_key(who) else who):
                        record_event(session, "login.failed", federation_id=None, actor=_actor(who), count=count)
        except FedafdError as error:
            for who, count in counts.items():
                _keep(self._unwritten, who, self._unwritten.get(who, 0) + count)
            _log.warning("login.failures_not_written", reason=str(error))
            return
        for who, count in counts.items():
            _log.warning("login.failed", actor=_actor(who), count=count)
            _keep(self._written, who, now)

    async def _count(self, who: str) -> None:
        await self._rates.take(_name(who), self._per_minute)
        self._note(who)

    def _note(self, who: str) -> None:
        _keep(self._unwritten, who, self._unwritten.get(who, 0) + 1)


def _is_key(who: str) -> bool:
    return who.startswith("key:")


def _actor(who: str) -> str:
    """As log and audit log name it."""
    return who if _is_key(who) else f"address:{who}"


def _name(who: str) -> str:
    return f"failed:{who}"


def network_of(address: str) -> str:
    """The address; of IPv6 the network of 64 bits, whose addresses are one holder's."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else str(parsed)


def _keep(kept: OrderedDict[str, T], key: str, value: T) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > MOST_REMEMBERED:
        kept.popitem(last=False)
