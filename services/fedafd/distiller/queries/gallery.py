"""What is searched of a public set: its first pictures, those that no version was trained on before the others."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from itertools import accumulate, islice
from typing import NamedTuple, overload

from PIL import Image

from fedafd.datasets.decoding import ImageArray
from fedafd.datasets.public_set import PublicSet
from fedafd.domain.errors import DataError
from fedafd.messaging.query_messages import QueryHit

__all__ = ["Gallery", "Pictures"]

_SPLITS = ("test", "val", "train")
_THUMBNAIL = 192
"""Pixels of the longer side."""
_MOST_CAPTIONS = 5


class SampleRow(NamedTuple):
    """A sample of the public set."""

    split: str
    row: int


class Pictures(Sequence[ImageArray]):
    """The gallery's pictures, each decoded when it is asked for, for one thread after the other."""

    def __init__(self, public_set: PublicSet, samples: Sequence[SampleRow]) -> None:
        self._set, self._samples = public_set, samples
        # A split holds one shard's contents, which another thread's reading would replace.
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, index: int) -> ImageArray: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ImageArray]: ...
    def __getitem__(self, index: int | slice) -> ImageArray | Sequence[ImageArray]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        split, row = self._samples[index]
        with self._lock:
            return self._set.split(split).images[row]


class Gallery:
    """Up to `most` pictures of a public set, and the different captions that they have."""

    def __init__(self, public_set: PublicSet, most: int) -> None:
        known = [shard for shard in public_set.manifest.shards if shard.split in _SPLITS]
        shards = sorted(known, key=lambda shard: _SPLITS.index(shard.split))
        self.num_pictures = sum(shard.num_rows for shard in shards)
        """Of the whole public set."""
        before = accumulate((shard.num_rows for shard in shards), initial=0)
        needed = [shard for shard, count in zip(shards, before, strict=False) if count < most]
        self._set = public_set.with_shards(needed)
        every = (SampleRow(split, row) for split in _SPLITS for row in range(self._set.manifest.num_samples(split)))
        self._samples = list(islice(every, most))
        self.pictures = Pictures(self._set, self._samples)
        first: dict[str, int] = {}
        for number, (split, row) in enumerate(self._samples):
            for text in self._set.split(split).captions[row]:
                first.setdefault(text, number)
        self.captions = list(first)
        self._picture_of = list(first.values())

    def picture_hit(self, number: int, likeness: float) -> QueryHit:
        """A picture of the gallery as an answer shows it."""
        split, row = self._samples[number]
        pairs = self._set.split(split)
        captions = tuple(pairs.captions[row][:_MOST_CAPTIONS])
        name = pairs.ids[row] if pairs.ids else f"{split}-{row}"
        return QueryHit(
            id=name, split=split, likeness=likeness, captions=captions, thumbnail=_thumbnail(self.pictures, number)
        )

    def caption_hit(self, number: int, likeness: float) -> QueryHit:
        """A caption as an answer shows it, with the first picture that has it."""
        shown = self.picture_hit(self._picture_of[number], likeness)
        return shown.model_copy(update={"captions": (self.captions[number],)})


def _thumbnail(pictures: Pictures, number: int) -> bytes | None:
    try:
        image = Image.fromarray(pictures[number])
    except DataError:
        return None
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=80)
    return buffer.getvalue()
