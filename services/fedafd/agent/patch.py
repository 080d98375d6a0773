"""A download that takes what did not change from an older file: only the other bytes come over the wire.

The file grows from its begin, whichever side its bytes come from, so that what breaks off goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

from fedafd.agent.cache import PartialDownload
from fedafd.artifacts.blocks import MOST_RANGES, Span, block_digests, changed_spans
from fedafd.artifacts.stage_io import BUNDLE, WEIGHTS
from fedafd.domain.errors import ArtifactCorruptError

__all__ = ["CHANGE_IN_PART", "WORTH_A_PATCH_BYTES", "Patch", "patch_of"]

CHANGE_IN_PART = (BUNDLE, WEIGHTS)
"""Purposes whose next artifact has the layout of the last."""
WORTH_A_PATCH_BYTES = 256 << 10
"""Shorter ones are downloaded whole: to ask what changed would cost as much."""

_PIECE_BYTES = 1 << 20


class Patch:
    """`base` is the older file, `changed` what it lacks of the new one."""

    def __init__(self, base: Path, changed: list[Span]) -> None:
        self._base, self._changed, self._done = base, changed, 0

    @property
    def changed_bytes(self) -> int:
        """What comes over the wire."""
        return sum(span.end - span.start for span in self._changed)

    def missing_bytes(self, part: PartialDownload) -> int:
        """What still has to come."""
        return sum(span.end - span.start for span in self.missing(part))

    def taken_bytes(self, spans: Iterable[Span]) -> int:
        """How much of these parts of the file, in ascending order and apart, comes from the older one."""
        changed, taken = iter(self._changed), 0
        other = next(changed, None)
        for span in spans:
            taken += span.end - span.start
            while other is not None and other.start < span.end:
                taken -= max(0, min(other.end, span.end) - max(other.start, span.start))
                if other.end > span.end:
                    break
                other = next(changed, None)
        return taken

    def missing(self, part: PartialDownload) -> list[Span]:
        """What to ask for now, in order."""
        first = self._next(part)
        return [] if first is None else [first, *self._changed[self._done + 1 :]]

    def copy(self, part: PartialDownload) -> None:
        """Append from the older file up to the next byte that has to come."""
        first = self._next(part)
        end = part.size_bytes if first is None else first.start
        if end <= part.offset_bytes:
            return
        with self._base.open("rb") as file:
            file.seek(part.offset_bytes)
            while part.offset_bytes < end:
                data = file.read(min(_PIECE_BYTES, end - part.offset_bytes))
                if not data:
                    part.restart()
                    raise ArtifactCorruptError(f"{self._base.name}: is shorter than its blocks say")
                part.append(data)

    def append(self, part: PartialDownload, data: bytes) -> None:
        """Add bytes that came. Raises ArtifactCorruptError for more than was asked for."""
        while data:
            first = self._next(part)
            room = len(data) if first is None else first.end - first.start
            part.append(data[:room])
            data = data[room:]
            self.copy(part)

    def _next(self, part: PartialDownload) -> Span | None:
        """The rest of the first span that has not come yet."""
        while self._done < len(self._changed) and self._changed[self._done].end <= part.offset_bytes:
            self._done += 1
        if self._done == len(self._changed):
            return None
        span = self._changed[self._done]
        return Span(max(span.start, part.offset_bytes), span.end)


def patch_of(base: Path, wanted: bytes, *, size_bytes: int, length: int) -> Patch:
    """How a file of `size_bytes`, whose blocks of `length` have these digests, is made of `base` and what comes.

    Raises InvalidRequestError for digests that do not fit the size.
    """
    digests = block_digests(_pieces(base), length)
    return Patch(base, _joined(changed_spans(wanted, digests, size_bytes=size_bytes, length=length)))


def _joined(spans: list[Span]) -> list[Span]:
    """At most as many spans as may be asked for: those with the smallest gaps between them become one."""
    if len(spans) <= MOST_RANGES:
        return spans
    gaps = sorted(second.start - first.end for first, second in pairwise(spans))
    widest = gaps[len(spans) - MOST_RANGES - 1]
    joined = [spans[0]]
    for span in spans[1:]:
        if span.start - joined[-1].end <= widest:
            joined[-1] = Span(joined[-1].start, span.end)
        else:
            joined.append(span)
    return joined


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece
