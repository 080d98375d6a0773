"""A look at every sample of a site's data, once: what reads, what does not, what repeats, and how large things are.

Repeats are found by decoded pixels, so that the same picture in two formats is one; texts by their words but for white
space. Images of files are decoded in parallel threads: decoders let go of the interpreter's lock.
"""

from __future__ import annotations

import hashlib
import os
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

from fedafd.datasets.decoding import has_several_frames
from fedafd.datasets.facts import DataReport, ImageFacts, TextFacts, Unreadable, UnreadableSample
from fedafd.datasets.fingerprint import (
    DataFingerprint,
    content_of,
    joined,
    label_of,
    pixels_content,
    sample_digest,
    splits_of,
    text_content,
)
from fedafd.datasets.labels import class_counts
from fedafd.datasets.repeats import Look, find_repeats, without
from fedafd.datasets.samples import ClientData, ImageArray, ImageSplit, PairSplit, Split, TextSplit, sample_name
from fedafd.domain.errors import DataError

__all__ = ["Progress", "Survey", "survey"]

Progress = Callable[[int, int], None]
"""Hears how many samples were looked at, and of how many; may raise to stop."""
_FIRST_UNREADABLE = 20
_BLOCK = 256
_MOST_THREADS = 8


class _Seen(NamedTuple):
    """What one sample is."""

    digest: bytes = b""
    """Of the fingerprint."""
    content: bytes = b""
    """Equal for repeats."""
    size: tuple[int, int] | None = None
    grey: bool = False
    blank: bool = False
    several_frames: bool = False
    reason: str | None = None
    """Why it cannot be read."""


class Survey(NamedTuple):
    """The data, the report on them, and what else is kept of the look."""

    data: ClientData
    report: DataReport
    repeated_in_train: tuple[int, ...]
    """Training samples whose content is in another split, too."""

    def dropped(self) -> tuple[ClientData, DataReport, tuple[int, ...]]:
        """Data and report without the training samples that another split holds, too; and which those are."""
        if not self.repeated_in_train:
            return self.data, self.report, ()
        data = without(self.data, self.repeated_in_train)
        splits, repeats = splits_of(data), self.report.repeats
        across = {names: count for names, count in repeats.across.items() if not names.startswith("train/")}
        report = replace(
            self.report,
            counts={name: len(split) for name, split in splits.items()},
            classes=_classes(data, splits),
            repeats=replace(repeats, across=across, dropped=len(self.repeated_in_train)),
        )
        return data, report, self.repeated_in_train


def survey(data: ClientData, *, progress: Progress | None = None) -> Survey:
    """Look at every sample. What cannot be read is in the report; only `progress` can make this raise."""
    splits = splits_of(data)
    total = sum(len(split) for split in splits.values())
    seen: dict[str, list[_Seen]] = {}
    for name, split in splits.items():
        of_split: list[_Seen] = []
        for block in _looked_at(data, name, split):
            of_split += block
            if progress is not None:
                progress(sum(map(len, seen.values())) + len(of_split), total)
        seen[name] = of_split
    looks = {
        name: [Look(sample.content, label_of(data, splits[name], at)) for at, sample in enumerate(samples)]
        for name, samples in seen.items()
    }
    repeats, in_train = find_repeats(splits, looks)
    report = DataReport(
        kind=data.kind,
        listing=data.listing,
        counts={name: len(split) for name, split in splits.items()},
        classes=_classes(data, splits),
        unreadable=_unreadable(splits, seen),
        repeats=repeats,
        images=_image_facts(splits, seen),
        texts=_text_facts(splits),
        fingerprint=DataFingerprint(
            {name: joined(sample.digest for sample in samples if sample.digest) for name, samples in seen.items()}
        ),
    )
    return Survey(data, report, in_train)


def _looked_at(data: ClientData, name: str, split: Split) -> Iterator[list[_Seen]]:
    """What each sample is, in blocks."""

    def look(index: int) -> _Seen:
        return _look(name, label_of(data, split, index), split, index)

    blocks = [range(at, min(at + _BLOCK, len(split))) for at in range(0, len(split), _BLOCK)]
    if isinstance(split, TextSplit) or not blocks or not _of_files(split.images):
        for block in blocks:
            yield [look(index) for index in block]
        return
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1), "survey") as threads:
        for block in blocks:
            yield list(threads.map(look, block))


def _of_files(images: Sequence[ImageArray]) -> bool:
    # Reading files is safe in threads; a plugin's sequence of arrays may not be.
    try:
        encoded = getattr(images, "encoded", None)
        return encoded is not None and encoded(0) is not None
    except DataError:
        return True


def _look(name: str, label: str | None, split: Split, index: int) -> _Seen:
    try:
        digest = sample_digest(name, label, content_of(split, index))
        if isinstance(split, TextSplit):
            return _Seen(digest, _hashed(text_content(" ".join(split.texts[index].split()))))
        image = split.images[index]
        several_frames = _has_several_frames(split, split.images, index)
    except DataError as error:
        return _Seen(reason=str(error))
    except Exception as error:  # of an adapter that somebody else wrote: every such sample is told, not the first alone
        return _Seen(reason=f"{type(error).__name__}: {error}")
    height, width = image.shape[:2]
    return _Seen(
        digest,
        _hashed(pixels_content(image)),
        size=(width, height),
        grey=_is_grey(image[::8, ::8]) and _is_grey(image),  # a few pixels mostly tell
        blank=_is_blank(image[::8, ::8]) and _is_blank(image),
        several_frames=several_frames,
    )


def _has_several_frames(split: Split, images: Sequence[ImageArray], index: int) -> bool:
    encoded = getattr(images, "encoded", None)
    content = None if encoded is None else encoded(index)
    return content is not None and has_several_frames(content, sample_name(split, index))


def _is_grey(image: ImageArray) -> bool:
    return bool((image == image[..., :1]).all())


def _is_blank(image: ImageArray) -> bool:
    return bool((image == image[:1, :1]).all())


def _hashed(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _classes(data: ClientData, splits: dict[str, Split]) -> dict[str, dict[str, int]]:
    counts = {
        name: class_counts(split.labels, len(data.labels))
        for name, split in splits.items()
        if not isinstance(split, PairSplit)
    }
    return {
        label: {name: int(count[at]) for name, count in counts.items()}
        for at, label in enumerate(data.labels)
        if counts
    }


def _unreadable(splits: dict[str, Split], seen: dict[str, list[_Seen]]) -> Unreadable:
    unreadable = [
        (name, at, sample.reason)
        for name, samples in seen.items()
        for at, sample in enumerate(samples)
        if sample.reason
    ]
    first = []
    for split, at, reason in unreadable[:_FIRST_UNREADABLE]:
        name = sample_name(splits[split], at)
        first.append(UnreadableSample(split=split, name=name, reason=str(reason).removeprefix(f"{name}: ")))
    return Unreadable(count=len(unreadable), first=tuple(first))


def _image_facts(splits: dict[str, Split], seen: dict[str, list[_Seen]]) -> ImageFacts | None:
    sizes = [
        (sample.size[0] * sample.size[1], sample.size, name, at)
        for name, samples in seen.items()
        for at, sample in enumerate(samples)
        if sample.size is not None
    ]
    if not sizes:
        return None
    (_, smallest, *_), (_, largest, *_) = ends = min(sizes), max(sizes)
    names = [sample_name(splits[name], at) for _, _, name, at in ends]
    every = [sample for samples in seen.values() for sample in samples]
    return ImageFacts(
        smallest=smallest,
        smallest_name=names[0],
        largest=largest,
        largest_name=names[1],
        grey=sum(sample.grey for sample in every),
        blank=sum(sample.blank for sample in every),
        several_frames=sum(sample.several_frames for sample in every),
    )


def _text_facts(splits: dict[str, Split]) -> TextFacts | None:
    texts = [text for split in splits.values() for text in texts_of(split)]
    if not texts:
        return None
    characters, words = Counter(map(len, texts)), Counter(len(text.split()) for text in texts)
    return TextFacts(count=len(texts), characters=_spread(characters), words=_spread(words))


def texts_of(split: Split) -> Sequence[str]:
    """The texts or captions of a split."""
    if isinstance(split, ImageSplit):
        return ()
    return split.texts if isinstance(split, TextSplit) else [text for captions in split.captions for text in captions]


def _spread(counts: Counter[int]) -> tuple[int, int, int]:
    return min(counts), int(statistics.median_low(counts.elements())), max(counts)
