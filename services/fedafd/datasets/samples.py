"""What every adapter makes: splits of labelled images, labelled texts, or image-caption pairs.

Images are uint8 arrays of shape [height, width, 3], decoded when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, overload

import numpy as np

from fedafd.datasets.decoding import IMAGE_FORMATS, ImageArray, decode_image
from fedafd.datasets.file_kinds import is_dicom
from fedafd.datasets.intensity import IntensityRange
from fedafd.datasets.labels import Labels
from fedafd.datasets.listing import Listing
from fedafd.domain.kinds import ClientKind

__all__ = [
    "IMAGE_FORMATS",
    "ClientData",
    "ImageArray",
    "ImageSplit",
    "LazyImages",
    "PairSplit",
    "Split",
    "TextSplit",
    "decode_image",
    "sample_name",
]

T = TypeVar("T")


@dataclass(frozen=True)
class ImageSplit:
    """Labelled images; `labels` [n] indexes ClientData.labels, or are sets of them [n, C] (fedafd.datasets.labels)."""

    images: Sequence[ImageArray]
    labels: Labels

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Sequence[int]) -> ImageSplit:
        """The samples at `indices`, in that order."""
        return ImageSplit(_picked(self.images, indices), self.labels[np.asarray(indices, dtype=np.int64)])


@dataclass(frozen=True)
class TextSplit:
    """Labelled texts; `labels` as ImageSplit's."""

    texts: Sequence[str]
    labels: Labels

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Sequence[int]) -> TextSplit:
        """The samples at `indices`, in that order."""
        return TextSplit(_picked(self.texts, indices), self.labels[np.asarray(indices, dtype=np.int64)])


@dataclass(frozen=True)
class PairSplit:
    """Images, each with one or more captions, in a fixed order."""

    images: Sequence[ImageArray]
    captions: Sequence[tuple[str, ...]]
    ids: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Sequence[int]) -> PairSplit:
        """The samples at `indices`, in that order."""
        ids = tuple(self.ids[i] for i in indices) if self.ids else ()
        return PairSplit(_picked(self.images, indices), _picked(self.captions, indices), ids)


Split = ImageSplit | TextSplit | PairSplit


@dataclass(frozen=True)
class ClientData:
    """One client's private data. `labels` are the class names; empty for pairs."""

    kind: ClientKind
    train: Split
    val: Split
    test: Split
    labels: tuple[str, ...] = field(default=())
    listing: Listing = field(default=Listing())
    """What the adapter saw on its way here."""


class LazyImages(Sequence[ImageArray]):
    """Images decoded one by one, each time they are asked for, from bytes that `read(i)` brings.

    Decoding raises DataError naming `name(i)`. `intensity_range` is decode_image's.
    """

    def __init__(
        self,
        count: int,
        read: Callable[[int], bytes],
        name: Callable[[int], str],
        *,
        intensity_range: IntensityRange | None = None,
    ) -> None:
        self._count, self._read, self._name = count, read, name
        self.intensity_range = intensity_range

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> ImageArray: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ImageArray]: ...
    def __getitem__(self, index: int | slice) -> ImageArray | Sequence[ImageArray]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(index)
        index %= self._count
        return decode_image(self._read(index), self._name(index), intensity_range=self.intensity_range)

    def __iter__(self) -> Iterator[ImageArray]:
        return (self[index] for index in range(self._count))

    def name(self, index: int) -> str:
        """Where the image comes from, for errors and reports on the site."""
        return self._name(index)

    def encoded(self, index: int) -> bytes:
        """The image's file content."""
        return self._read(index)

    def shareable(self, index: int) -> bytes | None:
        """The image's file content where everybody decodes it alike from that alone; None for DICOM, which needs an
        extra and names the patient, and where `intensity_range` is set.
        """
        content = self._read(index)
        return None if self.intensity_range is not None or is_dicom(content, self._name(index)) else content


def sample_name(split: Split, index: int) -> str:
    """What a person finds a sample by: where its image comes from, its id, or else its place in the split."""
    items = split.texts if isinstance(split, TextSplit) else split.images
    name = getattr(items, "name", None)
    text: str | None = None if name is None else name(index)
    if text is None and isinstance(split, PairSplit) and split.ids:
        text = split.ids[index]
    return f"sample {index + 1}" if text is None else text


class _Picked(Sequence[T]):
    """Some items of a sequence, still lazily."""

    def __init__(self, items: Sequence[T], indices: Sequence[int]) -> None:
        self._items, self._indices = items, indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return [self._items[i] for i in self._indices[index]]
        return self._items[self._indices[index]]

    def encoded(self, index: int) -> bytes | None:
        """The content of an image's file; None where it comes from none."""
        encoded = getattr(self._items, "encoded", None)
        return None if encoded is None else encoded(self._indices[index])

    @property
    def intensity_range(self) -> IntensityRange | None:
        """LazyImages'; None for what has none."""
        window: IntensityRange | None = getattr(self._items, "intensity_range", None)
        return window

    def name(self, index: int) -> str | None:
        """Where an item comes from; None where that is not known."""
        name = getattr(self._items, "name", None)
        return None if name is None else name(self._indices[index])


def _picked(items: Sequence[T], indices: Sequence[int]) -> Sequence[T]:
    return _Picked(items, [int(index) for index in indices])
