"""Objects of the store that nothing needs: chunks of uploads that broke off, what a failed round leaves behind, and
what the retention of its federation lets go of a completed one.

An object is written before the transaction that names it. So what is not named may be about to be, as long as its round
is open; once the round is over, nothing names it any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from fedafd.artifacts.keys import FEDERATIONS, OF_A_FEDERATION, OF_A_ROUND, OF_AN_UPLOAD
from fedafd.persistence.orphan_repository import Known
from fedafd.storage import ObjectInfo, ObjectStore, UnfinishedWrites

__all__ = ["Orphan", "OrphanKind", "orphan_kind", "orphans_of", "unfinished_writes"]

"""Prefix of the objects that rounds write. Public sets, which lie elsewhere, are an operator's to keep."""
_PROBE = f"{FEDERATIONS}write-probe/"
_ABANDONED_AFTER = timedelta(days=1)
"""Longer than any write takes."""


class OrphanKind(StrEnum):
    """Why nothing needs an object."""

    CHUNKS = "chunks of uploads that no round waits for"
    ROUNDS = "objects of rounds that are over, named by nothing"
    FAILED = "results of rounds that failed or were cancelled"
    LET_GO = "what retention lets go of completed rounds"
    PROBES = "probes of whether the store takes writes"
    UNFINISHED = "writes that never ended"
    FOREIGN = "objects of federations that the database does not know"


_NONE: Mapping[str, OrphanKind] = {}


@dataclass(frozen=True)
class Orphan:
    """One object, and why nothing needs it."""

    kind: OrphanKind
    key: str
    size_bytes: int


def orphan_kind(key: str, known: Known, forgotten: Mapping[str, OrphanKind] = _NONE) -> OrphanKind | None:
    """Why nothing needs the object of that key; None if something does or may. `forgotten`: keys about to be so."""
    if key.startswith(_PROBE):
        return OrphanKind.PROBES
    if (of_federation := OF_A_FEDERATION.match(key)) is None or of_federation["federation"] not in known.federations:
        return OrphanKind.FOREIGN if of_federation else None
    if chunk := OF_AN_UPLOAD.match(key):
        return None if chunk["upload"] in known.uploads else OrphanKind.CHUNKS
    of_round = OF_A_ROUND.match(key)
    if of_round is None or (of_round["federation"], int(of_round["number"])) in known.open_rounds:
        return None
    of_whole = key.removesuffix(".copy")
    if of_whole in forgotten:
        return forgotten[of_whole]
    return None if key in known.named or of_whole in known.named else OrphanKind.ROUNDS


def orphans_of(
    objects: Iterable[ObjectInfo], known: Known, forgotten: Mapping[str, OrphanKind] = _NONE
) -> Iterator[Orphan]:
    """Those of the objects that nothing needs."""
    for entry in objects:
        kind = orphan_kind(entry.key, known, forgotten)
        if kind is not None:
            yield Orphan(kind, entry.key, entry.size_bytes)


def unfinished_writes(store: ObjectStore) -> Iterator[Orphan]:
    """What processes that were killed while they wrote left in the store, at least a day ago."""
    if isinstance(store, UnfinishedWrites):
        for written in store.unfinished(_ABANDONED_AFTER):
            yield Orphan(OrphanKind.UNFINISHED, written.key, written.size_bytes)
