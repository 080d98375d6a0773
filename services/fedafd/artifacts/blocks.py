"""Blocks of a blob by digest: who holds an older blob of the same layout asks for those bytes alone that differ.

A round's bundle has the layout of the one before: tensors of the same names, shapes and types at the same places. What
was not trained since is in the same blocks, whichever tensors it is of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fedafd.domain.errors import InvalidRequestError

__all__ = [
    "DIGEST_BYTES",
    "MOST_RANGES",
    "Span",
    "block_digests",
    "block_length",
    "blocks_of",
    "changed_spans",
    "checked_length",
    "checked_spans",
]

DIGEST_BYTES = 8
"""Of a block's SHA-256. Enough to look for what changed: the whole blob is checked by its own hash afterwards."""
MOST_RANGES = 4096
_SHORTEST_BLOCK = 16 << 10
_MOST_BLOCKS = 1 << 17


@dataclass(frozen=True)
class Span:
    """Bytes `start` to `end` (exclusive) of a blob."""

    start: int
    end: int


def block_length(size_bytes: int) -> int:
    """Bytes of a block: 16 KiB, and more for blobs whose digests would take over 1 MiB. A power of two."""
    length = _SHORTEST_BLOCK
    while length * _MOST_BLOCKS < size_bytes:
        length *= 2
    return length


def checked_length(length: int) -> int:
    """A block's length that the other side told. Raises InvalidRequestError for one that no `block_length` gives."""
    if length < _SHORTEST_BLOCK or length & (length - 1) or length > 1 << 40:
        raise InvalidRequestError(f"blocks of {length} bytes; expected a power of two from {_SHORTEST_BLOCK} on")
    return length


def block_digests(pieces: Iterable[bytes], length: int) -> bytes:
    """The digests of a blob's blocks, one after the other, of its bytes in pieces of any size."""
    return b"".join(hashlib.sha256(block).digest()[:DIGEST_BYTES] for block in blocks_of(pieces, length))


def changed_spans(wanted: bytes, present: bytes, *, size_bytes: int, length: int) -> list[Span]:
    """Where a blob of `size_bytes` with the digests `wanted` differs from one at hand with the digests `present`.

    Neighbouring blocks are one span. Raises InvalidRequestError if there are not as many digests as blocks.
    """
    count = -(-size_bytes // length)
    if len(wanted) != count * DIGEST_BYTES:
        raise InvalidRequestError(f"{len(wanted)} bytes of digests came for {count} blocks of {DIGEST_BYTES}")
    spans: list[Span] = []
    for number in range(count):
        span = slice(number * DIGEST_BYTES, (number + 1) * DIGEST_BYTES)
        if wanted[span] == present[span]:
            continue
        start, end = number * length, min((number + 1) * length, size_bytes)
        if spans and spans[-1].end == start:
            start = spans.pop().start
        spans.append(Span(start, end))
    return spans


def checked_spans(ranges: Sequence[tuple[int, int]], size_bytes: int) -> list[Span]:
    """Offsets and lengths as spans. Raises InvalidRequestError unless they ascend, lie apart and inside of the blob."""
    if len(ranges) > MOST_RANGES:
        raise InvalidRequestError(f"{len(ranges)} ranges; at most {MOST_RANGES} are sent at once")
    before, spans = 0, []
    for start, length in ranges:
        if start < before or length < 1 or start + length > size_bytes:
            raise InvalidRequestError(
                f"range of {length} bytes from {start}: ranges must ascend, lie apart and end within {size_bytes} bytes"
            )
        before = start + length
        spans.append(Span(start, before))
    return spans


def blocks_of(pieces: Iterable[bytes], length: int) -> Iterator[bytes]:
    """The same bytes in blocks of `length`; the last one may be shorter."""
    rest = b""
    for piece in pieces:
        rest += piece
        whole = len(rest) - len(rest) % length
        view = memoryview(rest)
        for start in range(0, whole, length):
            yield bytes(view[start : start + length])
        rest = rest[whole:]
    if rest:
        yield rest
