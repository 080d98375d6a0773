"""Bytes of stored objects, each compared with what its hash covers before it leaves, at the cost of the part asked for.

An object has one hash, over all of it, so that its first use reads the whole. From then on the hashes of its blocks are
known here, and a part costs the blocks that it touches: otherwise a viewer who asks for one byte of a large model,
again and again, holds a core for each thread that it has in the store.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from fedafd.artifacts.blocks import blocks_of
from fedafd.control_plane.turns import in_store, without_turn
from fedafd.domain.errors import ArtifactCorruptError
from fedafd.persistence.models import ModelFileRow
from fedafd.storage import ObjectStore

__all__ = ["BLOCK_BYTES", "CheckedObjects", "CheckedPart"]

BLOCK_BYTES = 1 << 20
_REMEMBERED_BYTES = 64 << 20
"""Of hashes: those of 2 TiB. The objects that were used least lately are forgotten first."""
_DIGEST_BYTES = 32
_AHEAD_BYTES = 16 * BLOCK_BYTES
"""How much of a known object is compared before an answer begins; what comes behind is when it is sent."""


@dataclass(frozen=True)
class CheckedPart:
    """Bytes `first` to `last` (exclusive) of an object of which all hashes are known."""

    store: ObjectStore
    row: ModelFileRow
    first: int
    last: int
    digests: Sequence[bytes]

    def pieces(self) -> Iterator[bytes]:
        """The bytes. Raises ArtifactCorruptError before a block that was damaged since would leave."""
        number, left = self.first // BLOCK_BYTES, self.last - self.first
        start = number * BLOCK_BYTES
        end = min(-(-self.last // BLOCK_BYTES) * BLOCK_BYTES, self.row.size_bytes)
        skipped = self.first - start
        for block in blocks_of(self.store.stream(self.row.key, start, end - start), BLOCK_BYTES):
            if number >= len(self.digests) or hashlib.sha256(block).digest() != self.digests[number]:
                _refuse(self.row, f"block {number} is not what it was")
            piece = block[skipped : skipped + left]
            number, skipped, left = number + 1, 0, left - len(piece)
            yield piece
        if left:
            _refuse(self.row, "its end is missing")

    def check_ahead(self) -> None:
        """Compare the beginning. Raises ArtifactCorruptError."""
        beginning = CheckedPart(
            self.store, self.row, self.first, min(self.last, self.first + _AHEAD_BYTES), self.digests
        )
        for _ in beginning.pieces():
            pass


@dataclass
class CheckedObjects:
    """The objects of a store that were compared with their hashes, by the hashes of their blocks."""

    store: ObjectStore
    _known: OrderedDict[tuple[str, str], tuple[bytes, ...]] = field(default_factory=OrderedDict)
    _reading: dict[tuple[str, str], asyncio.Lock] = field(default_factory=dict)
    _remembered_bytes: int = 0

    async def part(self, row: ModelFileRow, first: int, last: int) -> CheckedPart:
        """Bytes `first` to `last` (exclusive) of that object.

        Raises ArtifactCorruptError for an object that has not its hash, and for a part whose beginning changed since.
        """
        name = (row.key, row.sha256)
        digests = self._of(name)
        if digests is not None:
            part = CheckedPart(self.store, row, first, last, digests)
            await in_store(part.check_ahead)
            return part
        lock = self._reading.setdefault(name, asyncio.Lock())
        try:
            # Who asks for the same object meanwhile waits for what this one finds.
            async with without_turn(), lock:
                digests = self._of(name)
                if digests is None:
                    digests = await in_store(_digests, self.store, row)
                    self._remember(name, digests)
        finally:
            if not lock.locked():
                self._reading.pop(name, None)
        return CheckedPart(self.store, row, first, last, digests)

    def _of(self, name: tuple[str, str]) -> tuple[bytes, ...] | None:
        digests = self._known.get(name)
        if digests is not None:
            self._known.move_to_end(name)
        return digests

    def _remember(self, name: tuple[str, str], digests: tuple[bytes, ...]) -> None:
        self._known[name] = digests
        self._remembered_bytes += _DIGEST_BYTES * len(digests)
        while self._remembered_bytes > _REMEMBERED_BYTES and len(self._known) > 1:
            _, gone = self._known.popitem(last=False)
            self._remembered_bytes -= _DIGEST_BYTES * len(gone)


def _digests(store: ObjectStore, row: ModelFileRow) -> tuple[bytes, ...]:
    """Of the object's blocks. Raises ArtifactCorruptError unless the whole has its hash."""
    whole, digests = hashlib.sha256(), []
    for block in blocks_of(store.stream(row.key), BLOCK_BYTES):
        whole.update(block)
        digests.append(hashlib.sha256(block).digest())
    if whole.hexdigest() != row.sha256:
        _refuse(row, f"its content has SHA-256 {whole.hexdigest()}, expected {row.sha256}")
    return tuple(digests)


def _refuse(row: ModelFileRow, why: str) -> NoReturn:
    raise ArtifactCorruptError(f"object {row.key}: {why}; restore it from a backup", key=row.key)
