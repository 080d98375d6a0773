"""What an audit log took away since the backup that a database was restored from: who must not be let in again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from fedafd.domain.audit_chain import AuditEntry
from fedafd.domain.errors import DataError

__all__ = ["Taking", "Takings", "parted", "taken_away", "to_take_away"]


class Taking(StrEnum):
    """What to do again."""

    REVOKE_CLIENT = "revoke-client"
    """Revoked, or let in by another credential or token than that of the backup."""
    REVOKE_KEY = "revoke-key"
    """Revoked, or given another secret than that of the backup."""
    EXCLUDE_CLIENT = "exclude-client"
    FORGET_CLIENT = "forget-client"
    DELETE_FEDERATION = "delete-federation"


@dataclass(frozen=True, kw_only=True)
class Takings:
    """One thing to do again, once; `federation` is empty for keys."""

    what: Taking
    federation: str
    name: str
    reason: str = ""
    """Of an exclusion, as it was given."""


_REVOKING = {"client.revoked", "client.invited_again", "client.enrolled"}
_KEY_TURNED = {"api_key.revoked", "api_key.rotated"}


def parted(exported: Iterable[AuditEntry], restored: Iterable[AuditEntry]) -> tuple[list[AuditEntry], list[AuditEntry]]:
    """What an exported log and that of the restored database have each for itself, behind what is common.

    Raises DataError where they do not begin with the same entry, and so are no logs of one server.
    """
    theirs, ours, any_common = iter(exported), iter(restored), False
    for entry in theirs:
        mine = next(ours, None)
        if mine is None or mine.hash != entry.hash:
            if not any_common:
                break
            return [entry, *theirs], [*([] if mine is None else [mine]), *ours]
        any_common = True
    if not any_common:
        raise DataError("the exported log is another server's: it does not begin as this server's does")
    return [], list(ours)


def to_take_away(exported: Iterable[AuditEntry], restored: Iterable[AuditEntry]) -> list[Takings]:
    """What the exported log took away since the backup, but for what was since the restore. Raises DataError as above.

    A client that enrolled since the restore may have done so by a token that was used up.
    """
    since_backup, since_restore = parted(exported, restored)
    done = {_key(taking) for taking in taken_away(entry for entry in since_restore if entry.kind != "client.enrolled")}
    return [taking for taking in taken_away(since_backup) if _key(taking) not in done]


def taken_away(entries: Iterable[AuditEntry]) -> list[Takings]:
    """What these entries took away that nothing in them gave back, in a safe order to do it again."""
    takings: dict[tuple[Taking, str, str], Takings] = {}
    for entry in entries:
        federation = entry.federation or str(entry.data.get("federation", ""))
        client = str(entry.data.get("client") or entry.actor.removeprefix("client:"))
        if entry.kind in _REVOKING:
            _note(takings, Taking.REVOKE_CLIENT, federation, client)
        elif entry.kind in _KEY_TURNED:
            _note(takings, Taking.REVOKE_KEY, "", str(entry.data.get("name", "")))
        elif entry.kind == "client.excluded":
            _note(takings, Taking.EXCLUDE_CLIENT, federation, client, str(entry.data.get("reason") or ""))
        elif entry.kind == "client.readmitted":
            takings.pop((Taking.EXCLUDE_CLIENT, federation, client), None)
        elif entry.kind == "client.forget_requested":
            _note(takings, Taking.FORGET_CLIENT, federation, client)
        elif entry.kind == "federation.deleted":
            _note(takings, Taking.DELETE_FEDERATION, federation, federation)
    order = list(Taking)
    return sorted(takings.values(), key=lambda taking: order.index(taking.what))


def _key(taking: Takings) -> tuple[Taking, str, str]:
    return taking.what, taking.federation, taking.name


def _note(
    takings: dict[tuple[Taking, str, str], Takings], what: Taking, federation: str, name: str, reason: str = ""
) -> None:
    takings[what, federation, name] = Takings(what=what, federation=federation, name=name, reason=reason)
