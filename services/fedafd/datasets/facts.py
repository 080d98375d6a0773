"""What a look at every sample of a site's data found: counts, broken and repeated samples, sizes and lengths.

`DataReport.problems` say why the data cannot be used, `DataReport.warnings` what a person should look at. A report
holds names of files and classes: it is for the site's own eyes and never leaves it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fedafd.datasets.fingerprint import DataFingerprint
from fedafd.datasets.listing import LeftOutReason, Listing
from fedafd.domain.counted import counted
from fedafd.domain.kinds import ClientKind

__all__ = ["REPORT_VERSION", "DataReport", "ImageFacts", "Repeats", "TextFacts", "Unreadable", "UnreadableSample"]

REPORT_VERSION = 1
"""Of `DataReport.to_dict`: raised when a key changes its meaning or goes."""
_MOST_WARNINGS = 20
_MOST_NAMES = 5
_LEFT_OUT_BOUND = 0.05
_FEW_LEFT_OUT = 5
"""A page of notes beside the data is no warning."""
_PERHAPS_MEANT = (LeftOutReason.EXTENSION, LeftOutReason.NESTED, LeftOutReason.OUTSIDE, LeftOutReason.UNUSED)
"""Reasons for which files are left out that a person may have meant as data."""


@dataclass(frozen=True, kw_only=True)
class UnreadableSample:
    """One sample that cannot be read, and why."""

    split: str
    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """All samples that cannot be read; the first ones by name."""

    count: int = 0
    first: tuple[UnreadableSample, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """Samples of equal content: decoded pixels, or a text but for its white space. Captions do not count."""

    within: Mapping[str, int] = field(default_factory=dict)
    """By split: samples beyond the first of each content."""
    across: Mapping[str, int] = field(default_factory=dict)
    """By two splits, such as `train/test`: samples of the first whose content is in the other, too."""
    conflicting: int = 0
    """Contents that stand under two or more classes."""
    ids: int = 0
    """Ids that occur more than once, over all splits."""
    first: tuple[tuple[str, ...], ...] = ()
    """Samples of equal content, by name, a few such groups; those across splits come first."""
    dropped: int = 0
    """Training samples left out since they repeat in another split: `data.drop_repeats`."""


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """Sizes and colours of all images that can be read."""

    smallest: tuple[int, int]
    """Width and height in pixels of the image with the fewest pixels."""
    smallest_name: str
    largest: tuple[int, int]
    largest_name: str
    grey: int
    """Images whose three channels are equal."""
    blank: int
    """Images of a single colour."""
    several_frames: int = 0
    """Images of several frames or pages, of which the first is read."""


@dataclass(frozen=True, kw_only=True)
class TextFacts:
    """Lengths of all texts, or of all captions."""

    count: int
    characters: tuple[int, int, int]
    """Smallest, median, largest."""
    words: tuple[int, int, int]
    """As `characters`; what white space parts."""


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """A site's data after a look at every sample."""

    kind: ClientKind
    listing: Listing
    counts: Mapping[str, int]
    """Samples by split."""
    classes: Mapping[str, Mapping[str, int]]
    """Samples by class and split; empty for pairs."""
    unreadable: Unreadable
    repeats: Repeats
    images: ImageFacts | None
    texts: TextFacts | None
    fingerprint: DataFingerprint

    @property
    def untrained(self) -> tuple[str, ...]:
        """Classes without a training sample."""
        return tuple(name for name, counts in self.classes.items() if not counts.get("train"))

    def problems(self) -> tuple[str, ...]:
        """Why these data cannot be used; empty if they can."""
        sentences = []
        if self.unreadable.count:
            one = self.unreadable.first[0]
            sentences.append(
                f"{_samples(self.unreadable.count)} cannot be read; the first, of split {one.split}:"
                f" {one.name}: {one.reason}"
            )
        if self.kind is not ClientKind.PAIR and len(self.classes) < 2:
            names = ", ".join(self.classes) or "none"
            sentences.append(f"classes: {len(self.classes)} ({names}); telling classes apart needs two or more")
        train = self.counts["train"]
        if train < 2:
            sentences.append(f"{train or 'no'} training sample; a site needs two or more to train on")
        sentences += [f"split {split} has no sample" for split in ("val", "test") if not self.counts[split]]
        return tuple(sentences)

    def warnings(self) -> tuple[str, ...]:
        """What a person should look at; at most 20 sentences, then how many more."""
        sentences = [*self._listing_warnings(), *self._class_warnings(), *self._repeat_warnings()]
        sentences += self._content_warnings()
        over = len(sentences) - _MOST_WARNINGS
        return tuple(sentences) if over <= 0 else (*sentences[:_MOST_WARNINGS], f"and {over} more")

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file, in JSON's own types; the keys are this class's fields."""
        values = {name: value for name, value in asdict(self).items() if name != "fingerprint"}
        fields = {
            "version": REPORT_VERSION,
            **values,
            "untrained": self.untrained,
            "fingerprint": self.fingerprint.value,
            "problems": self.problems(),
            "warnings": self.warnings(),
        }
        plain: dict[str, Any] = json.loads(json.dumps(fields))
        return plain

    def _listing_warnings(self) -> list[str]:
        meant = [omission for omission in self.listing.left_out if omission.reason in _PERHAPS_MEANT]
        count = sum(omission.count for omission in meant)
        if count < _FEW_LEFT_OUT or count <= _LEFT_OUT_BOUND * self.listing.files_seen:
            return []
        what = ", ".join(
            f"{omission.count} {omission.reason.words} ({omission.what})" for omission in meant[:_MOST_NAMES]
        )
        return [f"{count} of {self.listing.files_seen} files are not read: {what}"]

    def _class_warnings(self) -> list[str]:
        sentences = []
        if self.untrained and self.counts["train"]:
            sentences.append(
                f"no training sample in {_named('class', 'classes', self.untrained)}: it cannot be learned"
            )
        trained = [name for name in self.classes if name not in self.untrained]
        if self.classes and len(trained) == 1:
            sentences.append(f"all training samples are of one class, {trained[0]}")
        for split in ("val", "test"):
            absent = tuple(name for name in trained if not self.classes[name].get(split))
            if absent and self.counts[split]:
                sentences.append(f"no sample in split {split} of {_named('class', 'classes', absent)}")
        return sentences

    def _repeat_warnings(self) -> list[str]:
        repeats, sentences = self.repeats, []
        for splits, count in repeats.across.items():
            one, other = splits.split("/")
            sentence = f"{_samples(count)} of split {one} {'is' if count == 1 else 'are'} also in split {other}"
            sentences.append(sentence + ("; data.drop_repeats: true leaves them out" if one == "train" else ""))
        for split, count in repeats.within.items():
            sentences.append(f"split {split} holds {_samples(count)} more than once")
        if repeats.conflicting:
            sentences.append(f"equal content stands under different classes: {_times(repeats.conflicting)}")
        if repeats.ids:
            sentences.append(f"ids occur more than once: {repeats.ids} of them")
        return sentences

    def _content_warnings(self) -> list[str]:
        sentences = []
        if self.images is not None and self.images.blank:
            sentences.append(f"images of a single colour: {self.images.blank}")
        if self.images is not None and self.images.several_frames:
            sentences.append(
                f"images of several frames or pages, of which the first is read: {self.images.several_frames}"
            )
        if self.images is not None and min(self.images.smallest) < 8:
            width, height = self.images.smallest
            sentences.append(f"the smallest image has {width} x {height} pixels: {self.images.smallest_name}")
        return sentences


def _samples(count: int) -> str:
    return counted(count, "sample")


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _named(one: str, many: str, names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"{one if len(names) == 1 else many} {', '.join(names[:_MOST_NAMES])}{more}"
