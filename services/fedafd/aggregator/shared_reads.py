"""What sites download is read from the store once for all who want it at about the same time.

When a round begins, all sites of a kind download the same objects: two hundred of them would read a bundle two hundred
times, from a store that may be far away. Here each piece is read by the first who needs it, in a thread; those that
come meanwhile wait for the same read, and those that come soon after get it from memory, without a thread.

Objects have the hash of their content in their keys, so that nothing that is kept becomes an old one. A damaged one is
forgotten when a site says so.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Iterator

from fedafd.artifacts.blocks import Span
from fedafd.storage import ObjectStore

__all__ = ["KEPT_BYTES", "PIECE_BYTES", "SENT_BYTES", "SharedReads"]

PIECE_BYTES = 4 << 20
"""That are read at once: each read asks an S3 service anew, and what waits to be sent is in memory."""
SENT_BYTES = 256 << 10
"""Of one message: while it is sent it is in memory three times, for each of the sites that download."""
KEPT_BYTES = 16 << 20
"""Of pieces that were read last."""
_AROUND_BYTES = 512
_Piece = tuple[str, int, int]
"""Key, first byte, and the byte behind the last."""


class SharedReads:
    """Pieces of a store's objects."""

    def __init__(self, store: ObjectStore, *, kept_bytes: int = KEPT_BYTES) -> None:
        self._store, self._kept_bytes = store, kept_bytes
        self._pieces: OrderedDict[_Piece, bytes] = OrderedDict()
        self._num_bytes = 0
        self._reading: dict[_Piece, asyncio.Task[bytes]] = {}

    async def stream(self, key: str, spans: Iterable[Span]) -> AsyncIterator[bytes]:
        """The bytes of these spans in parts of up to SENT_BYTES; ends early where the object does.

        Raises as ObjectStore.stream.
        """
        for piece in _cut(key, spans):
            _, start, end = piece
            while start < end:
                stop = min(end, _next_multiple(start, SENT_BYTES))
                part = await self._part(piece, start, stop)
                if part:
                    yield part
                if len(part) < stop - start:
                    return
                start = stop

    async def _part(self, piece: _Piece, start: int, stop: int) -> bytes:
        """These bytes of a piece, which is read as a whole where it begins.

        Where it was dropped since, they are read alone: who sends slowly holds no more than what it sends next.
        """
        key, first, _ = piece
        data = self._kept(piece)
        if data is None and start > first:
            data, first = self._kept((key, start, stop)), start
            piece = key, start, stop
        if data is None:
            data = await asyncio.shield(self._reader(piece))
        return data[start - first : stop - first]

    def forget(self, key: str) -> None:
        """The object may be damaged: from here on it is read anew."""
        for piece in [piece for piece in self._pieces if piece[0] == key]:
            self._num_bytes -= _weight(self._pieces.pop(piece))
        for piece in [piece for piece in self._reading if piece[0] == key]:
            del self._reading[piece]

    def _kept(self, piece: _Piece) -> bytes | None:
        if piece in self._pieces:
            self._pieces.move_to_end(piece)
        return self._pieces.get(piece)

    def _reader(self, piece: _Piece) -> asyncio.Task[bytes]:
        if piece not in self._reading:
            task = self._reading[piece] = asyncio.create_task(self._read(piece))
            task.add_done_callback(_heard)
        return self._reading[piece]

    async def _read(self, piece: _Piece) -> bytes:
        key, start, end = piece
        try:
            data = await asyncio.to_thread(lambda: b"".join(self._store.stream(key, start, end - start)))
            # Of an object that was cut nothing is kept: it may be whole again at the next question.
            if len(data) == end - start and self._reading.get(piece) is asyncio.current_task():
                self._keep(piece, data)
            return data
        finally:
            if self._reading.get(piece) is asyncio.current_task():
                del self._reading[piece]

    def _keep(self, piece: _Piece, data: bytes) -> None:
        self._pieces[piece] = data
        self._num_bytes += _weight(data)
        while self._num_bytes > self._kept_bytes:
            _, oldest = self._pieces.popitem(last=False)
            self._num_bytes -= _weight(oldest)


def _weight(data: bytes) -> int:
    """With what is around it: a site may ask for ranges of one byte."""
    return len(data) + _AROUND_BYTES


def _cut(key: str, spans: Iterable[Span]) -> Iterator[_Piece]:
    """At multiples of PIECE_BYTES, so that those who resume share pieces with those who begin."""
    for span in spans:
        start = span.start
        while start < span.end:
            end = min(span.end, _next_multiple(start, PIECE_BYTES))
            yield key, start, end
            start = end


def _next_multiple(start: int, of: int) -> int:
    return start - start % of + of


def _heard(task: asyncio.Task[bytes]) -> None:
    """Take note of an error that nobody waits for any more: asyncio would complain of it."""
    if not task.cancelled():
        task.exception()
