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
    """Revoked, let in by another credential or token than that of the backup, or by that credential bound to a key: the
    restored database would bind it to the first key that comes, whoever holds it."""
    EXCLUDE_CLIENT = "exclude-client"
    FORGET_CLIENT = "forget-client"
    DELETE_FEDERATION = "delete-federation"
    CONFIGURE = "configure"
    """The configuration of before may share more, or trust more, than the one that took its place."""
    SET_CURRENT = "set-current"
    """A version that somebody turned away from is the current one again, which rounds start from."""
    REVOKE_KEY = "revoke-key"
    """Revoked, or given another secret than that of the backup. Last: the key that asks for it all may be one."""


@dataclass(frozen=True, kw_only=True)
class Takings:
    """One thing to do again, once; `federation` is empty for keys."""

    what: Taking
    federation: str
    name: str
    reason: str = ""
    """Of an exclusion, as it was given; of a configuration the changed keys; of a current version which it was."""
    from_round: int | None = None
    """The first round of an exclusion."""


_REVOKING = {"client.revoked", "client.invited_again", "client.enrolled", "client.key_bound"}
_CURRENT = {"model.promoted", "model.rolled_back"}
_KEY_TURNED = {"api_key.revoked", "api_key.rotated"}
_SETTLED_BY = {
    # Who is new since the restore has nothing of what the backup does not know.
    "client.invited": (Taking.REVOKE_CLIENT, Taking.EXCLUDE_CLIENT, Taking.FORGET_CLIENT),
    "client.invited_again": (Taking.REVOKE_CLIENT,),
    "client.revoked": (Taking.REVOKE_CLIENT,),
    "client.excluded": (Taking.EXCLUDE_CLIENT,),
    "client.readmitted": (Taking.EXCLUDE_CLIENT,),
    "client.forget_requested": (Taking.FORGET_CLIENT,),
    "api_key.created": (Taking.REVOKE_KEY,),
    "api_key.revoked": (Taking.REVOKE_KEY,),
    "api_key.rotated": (Taking.REVOKE_KEY,),
    "federation.config_changed": (Taking.CONFIGURE,),
    "model.promoted": (Taking.SET_CURRENT,),
    "model.rolled_back": (Taking.SET_CURRENT,),
    "federation.created": (Taking.DELETE_FEDERATION,),
    "federation.deleted": (Taking.DELETE_FEDERATION,),
}
"""What somebody decided since the restore stays as they decided it. That a client enrolled or bound a key decides
nothing: it may have done so by a token that was used up, or by a credential that somebody else has too."""


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
    """What the exported log took away since the backup, but for what was decided since the restore.

    Raises DataError as above, and for an export that ends before the restored log does: it tells nothing of what came
    after the backup.
    """
    since_backup, since_restore = parted(exported, restored)
    if since_restore and not since_backup:
        raise DataError(
            f"the exported log ends before entry {since_restore[0].id}, which the restored database has: it tells"
            " nothing of what came after the backup; take a newer export"
        )
    settled = {(what, *_subject(entry, what)) for entry in since_restore for what in _SETTLED_BY.get(entry.kind, ())}
    return [one for one in taken_away(since_backup) if (one.what, one.federation, one.name) not in settled]


def taken_away(entries: Iterable[AuditEntry]) -> list[Takings]:
    """What these entries took away that nothing in them gave back, in a safe order to do it again."""
    takings: dict[tuple[Taking, str, str], Takings] = {}
    for entry in entries:
        if entry.kind in _REVOKING:
            _note(takings, entry, Taking.REVOKE_CLIENT)
        elif entry.kind in _KEY_TURNED:
            _note(takings, entry, Taking.REVOKE_KEY)
        elif entry.kind == "client.excluded":
            _note(takings, entry, Taking.EXCLUDE_CLIENT)
        elif entry.kind == "client.readmitted":
            takings.pop((Taking.EXCLUDE_CLIENT, *_subject(entry, Taking.EXCLUDE_CLIENT)), None)
        elif entry.kind == "client.forget_requested":
            _note(takings, entry, Taking.FORGET_CLIENT)
        elif entry.kind == "federation.deleted":
            _note(takings, entry, Taking.DELETE_FEDERATION)
            federation = _subject(entry, Taking.DELETE_FEDERATION)[0]
            for what in (Taking.CONFIGURE, Taking.SET_CURRENT):
                takings.pop((what, federation, federation), None)
        elif entry.kind == "federation.config_changed":
            _note(takings, entry, Taking.CONFIGURE)
        elif entry.kind in _CURRENT:
            _note(takings, entry, Taking.SET_CURRENT)
    order = list(Taking)
    return sorted(takings.values(), key=lambda taking: order.index(taking.what))


def _subject(entry: AuditEntry, what: Taking) -> tuple[str, str]:
    """Federation and name of whom an entry is about."""
    federation = entry.federation or str(entry.data.get("federation", ""))
    if what is Taking.REVOKE_KEY:
        return "", str(entry.data.get("name", ""))
    if what in (Taking.DELETE_FEDERATION, Taking.CONFIGURE, Taking.SET_CURRENT):
        return federation, federation
    return federation, str(entry.data.get("client") or entry.actor.removeprefix("client:"))


def _note(takings: dict[tuple[Taking, str, str], Takings], entry: AuditEntry, what: Taking) -> None:
    federation, name = _subject(entry, what)
    excluded = entry.data if what is Taking.EXCLUDE_CLIENT else {}
    from_round, reason = excluded.get("from_round"), str(excluded.get("reason") or "")
    if what is Taking.CONFIGURE:
        before = takings.get((what, federation, name))
        keys = {*(before.reason.split(", ") if before else ()), *map(str, entry.data.get("changed", ()))}
        reason = ", ".join(sorted(keys))
    elif what is Taking.SET_CURRENT:
        reason = f"version {entry.data.get('new')} in place of {entry.data.get('old')}"
    takings[what, federation, name] = Takings(
        what=what,
        federation=federation,
        name=name,
        reason=reason,
        from_round=from_round if isinstance(from_round, int) else None,
    )
