"""The audit log's chain: the hash of each entry covers the entry and the hash of the one before.

Whoever changes, removes, inserts or moves an entry must make every later hash anew, and then the head, the last entry's
id and hash, is another. A head that was noted elsewhere (an anchor) shows that, and that the log's end was cut off.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fedafd.domain.errors import DataError
from fedafd.domain.hashing import sha256_of

__all__ = ["START", "AuditEntry", "ChainCheck", "Head", "entry_hash"]

START = "0" * 64
"""What the first entry's hash covers in the place of the one before."""
_FIELDS = ("id", "at", "federation", "kind", "actor", "data", "hash")
_DELETED = "federation.deleted"
_DEEPEST = 100
"""Objects and lists in one another; what processes write has a few."""
_CAUSES = "it was changed or put in, or what stood before it was changed, removed or moved"


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """An entry as the audit log shows it."""

    id: int
    at: datetime
    federation: str | None
    kind: str
    actor: str
    data: Mapping[str, Any]
    address: str | None = None
    """From where the actor asked; None if nobody did, and in entries from before addresses were noted."""
    hash: str | None = None
    """None while only a program from before there was a chain has written since."""

    @classmethod
    def of_json(cls, value: Any) -> AuditEntry:
        """From what the REST API answers and `fedafd audit export` writes. Raises DataError for anything else."""
        if not isinstance(value, dict) or any(name not in value for name in _FIELDS):
            raise DataError(f"is no entry of an audit log: it needs {', '.join(_FIELDS)}")
        entry = {name: value[name] for name in _FIELDS} | {"address": value.get("address")}
        if type(entry["id"]) is not int or not isinstance(entry["data"], dict):
            raise DataError("is no entry of an audit log: its id must be a whole number and its data an object")
        if not all(isinstance(entry[name], str) for name in ("at", "kind", "actor")):
            raise DataError("is no entry of an audit log: at, kind and actor must be text")
        if not all(entry[name] is None or isinstance(entry[name], str) for name in ("federation", "address", "hash")):
            raise DataError("is no entry of an audit log: federation, address and hash must be text or null")
        if not _is_shallow(entry["data"]):
            raise DataError(f"is no entry of an audit log: data of {entry['id']} are nested more than {_DEEPEST} times")
        return cls(**entry | {"at": _moment(entry["at"])})

    def is_held_by(self, later: AuditEntry) -> bool:
        """Whether a log that was read later has this entry as it was; one without a hash may have got its own since."""
        return self.hash in (None, later.hash) and entry_hash(START, self) == entry_hash(START, later)


@dataclass(frozen=True, kw_only=True)
class Head:
    """Up to where a log goes: the id and the hash of its last entry. Written `ID:HASH`."""

    id: int
    hash: str

    def __str__(self) -> str:
        return f"{self.id}:{self.hash}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """From `ID:HASH`. Raises DataError for anything else."""
        number, _, digest = text.strip().partition(":")
        whole = number.isascii() and number.isdecimal() and len(number) <= 19
        if not whole or len(digest) != len(START) or not set(digest) <= set("0123456789abcdef"):
            raise DataError(f"anchor {text[:100]!r}: is not ID:HASH, as `fedafd audit verify` prints it")
        return cls(id=int(number), hash=digest)


def entry_hash(previous: str, entry: AuditEntry) -> str:
    """SHA-256, in hexadecimal, over the hash of the entry before and all of this one, its own hash left out.

    The deletion of a federation moves its name into the data of its entries, where it counts as the same. An entry
    without an address is covered as it was before there were any.
    """
    data, federation = dict(entry.data), entry.federation
    if federation is None:
        federation = data.pop("federation", None)
    at = entry.at.astimezone(UTC).isoformat(timespec="microseconds")
    covered = [previous, entry.id, at, federation, entry.kind, entry.actor, json.loads(json.dumps(data))]
    if entry.address is not None:
        covered.append(entry.address)
    return sha256_of(json.dumps(_plain(covered), sort_keys=True, separators=(",", ":")).encode())


def _is_shallow(value: Any) -> bool:
    """Whether it can be hashed: deeper values would exhaust the stack, there or in a database's reader of JSON."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [inner for outer in level for inner in _inner(outer)]
        if not level:
            return True
    return False


def _inner(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _plain(value: Any) -> Any:
    """Numbers in one form, because databases and JSON write 1e3, 1000.0 and 1000 as they like."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return None if not math.isfinite(value) else int(value) if value.is_integer() else value
    return value


def _moment(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is not None:
            return at.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise DataError("is no entry of an audit log: at must be a time with its zone")


class ChainCheck:
    """Goes through a log from its first entry on, and tells of the first one that does not fit."""

    def __init__(self, anchors: Sequence[Head] = ()) -> None:
        self._awaited = sorted(anchors, key=lambda anchor: anchor.id)
        self.count = 0
        self.head: Head | None = None
        """The last entry that fitted; None before the first."""
        self._taken_out: dict[str, str] = {}
        """By federation: the first entry that stands as its deletion leaves entries, until the deletion is seen."""

    def misfit(self, entry: AuditEntry) -> str | None:
        """What is wrong with the next entry; None if it fits."""
        named = f"entry {entry.id} ({entry.kind}, {entry.at.isoformat()})"
        if self.head is not None and entry.id <= self.head.id:
            return f"{named}: stands after entry {self.head.id}: entries were moved or put in"
        if entry.hash is None:
            return f"{named}: has no hash: a program from before there was a chain wrote it, or somebody put it in"
        if entry.hash != entry_hash(self.head.hash if self.head else START, entry):
            return f"{named}: does not fit: {_CAUSES}"
        while self._awaited and self._awaited[0].id <= entry.id:
            anchor = self._awaited.pop(0)
            if anchor != Head(id=entry.id, hash=entry.hash):
                return (
                    f"{named}: is not what the anchor {anchor} tells: the log was made anew from there or before,"
                    " or the database is a restored backup that was written to since"
                )
        self.head = Head(id=entry.id, hash=entry.hash)
        self.count += 1
        self._note_federation(entry, named)
        return None

    def missing_end(self) -> str | None:
        """What the end shows to be wrong, once all entries have been seen; None if nothing.

        An anchor lies behind it, or an entry stands outside of a federation that was not deleted.
        """
        if self._awaited:
            last = "is empty" if self.head is None else f"ends with entry {self.head.id}"
            return (
                f"the log {last}, but the anchor {self._awaited[0]} lies behind that: its end was cut off,"
                " or the database is a restored backup"
            )
        return next(iter(self._taken_out.values()), None)

    def _note_federation(self, entry: AuditEntry, named: str) -> None:
        """Only the deletion of a federation leaves entries outside of it, and all of them stand before its own."""
        federation = entry.data.get("federation")
        if entry.federation is not None or not isinstance(federation, str):
            return
        if entry.kind == _DELETED:
            self._taken_out.pop(federation, None)
        else:
            fault = f"{named}: was taken out of the federation {federation[:100]!r}, which was not deleted since"
            self._taken_out.setdefault(federation, f"{fault}: its own log does not show it")
