"""Failed logins: limited for each address, logged, and in the audit log.

An address may fail so often a minute. Beyond that, secrets that did not open anything lately are refused unseen from
there, so that nobody can try many; callers that share the address, as behind a proxy, go on. What is remembered is
bounded, and written now and then: nobody fills the database by failing.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from time import monotonic
from typing import TypeVar

from fedafd.domain.errors import FedafdError, TooManyRequestsError
from fedafd.domain.secrets import hash_secret
from fedafd.persistence.database import Database
from fedafd.persistence.event_repository import record_event
from fedafd.telemetry.logging import get_logger

__all__ = ["FailedLogins"]

_MOST_REMEMBERED = 10_000
_TRUSTED_SECONDS = 3600.0
_EVENT_SECONDS = 60.0
"""An address makes one event a minute, with the number of its failures."""
_MOST_EVENTS = 20
"""Addresses that are written at once; the others wait."""
_log = get_logger(__name__)
T = TypeVar("T")


class FailedLogins:
    """Failures of the last minutes by address."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._opened: OrderedDict[str, float] = OrderedDict()
        self._unwritten: OrderedDict[str, int] = OrderedDict()
        self._written: OrderedDict[str, float] = OrderedDict()

    def check(self, address: str, secret: str) -> None:
        """Raise TooManyRequestsError for a secret that opened nothing lately, from where too many were wrong."""
        opened = self._opened.get(hash_secret(secret))
        if opened is not None and monotonic() - opened < _TRUSTED_SECONDS:
            return
        if self._tries(_network(address)) < 1:
            self._note(_network(address))
            raise TooManyRequestsError(
                f"too many wrong keys from {address}; wait a minute, and check the key that your programs use"
            )

    def failed(self, address: str) -> None:
        """A secret from there was wrong."""
        where = _network(address)
        _keep(self._left, where, (self._tries(where) - 1, monotonic()))
        self._note(where)
        _log.warning("login.failed", address=where)

    def opened(self, secret: str) -> None:
        """The secret is somebody's."""
        _keep(self._opened, hash_secret(secret), monotonic())

    async def write(self, database: Database) -> None:
        """Write what the audit log lacks; what the database does not take stays for the next time."""
        now = monotonic()
        due = [where for where in self._unwritten if now - self._written.get(where, -_EVENT_SECONDS) >= _EVENT_SECONDS]
        counts = {where: self._unwritten.pop(where) for where in due[:_MOST_EVENTS]}
        if not counts:
            return
        try:
            async with database.transaction() as session:
                for where, count in counts.items():
                    record_event(session, "login.failed", federation_id=None, actor=f"address:{where}", count=count)
        except FedafdError as error:
            for where, count in counts.items():
                _keep(self._unwritten, where, self._unwritten.get(where, 0) + count)
            _log.warning("login.failures_not_written", reason=str(error))
            return
        for where in counts:
            _keep(self._written, where, now)

    def _tries(self, where: str) -> float:
        left, at = self._left.get(where, (float(self._per_minute), 0.0))
        return min(float(self._per_minute), left + (monotonic() - at) * self._per_minute / 60)

    def _note(self, where: str) -> None:
        _keep(self._unwritten, where, self._unwritten.get(where, 0) + 1)


def _network(address: str) -> str:
    """The address; of IPv6 the network of 64 bits, whose addresses are one holder's."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else str(found)


def _keep(kept: OrderedDict[str, T], key: str, value: T) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > _MOST_REMEMBERED:
        kept.popitem(last=False)
