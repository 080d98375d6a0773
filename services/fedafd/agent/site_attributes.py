"""The attribute that `fedafd audit leakage` looks for: a topic of texts, or a column that the task never sees."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedafd.datasets.samples import ImageSplit, Split, TextSplit, sample_name
from fedafd.domain.errors import ConfigurationError, DataError
from fedafd.learning.audited_samples import topic_values

__all__ = ["SiteAttribute", "chosen_attribute"]

_KEY = "sample"
_MOST_VALUES = 100


@dataclass(frozen=True, kw_only=True)
class SiteAttribute:
    """What each sample has; `topics` are taken out of texts before the attack sees them."""

    name: str
    topics: tuple[str, ...] = ()
    of_samples: Mapping[str, int] = field(default_factory=dict)

    def values(self, splits: Sequence[Split]) -> NDArray[np.int64]:
        """The number of each sample's value; -1 where none is known."""
        if self.topics:
            return topic_values(splits, self.topics)
        numbers = [self._value(split, index) for split in splits for index in range(len(split))]
        return np.array(numbers, dtype=np.int64)

    def _value(self, split: Split, index: int) -> int:
        name = split.texts[index] if isinstance(split, TextSplit) else sample_name(split, index)
        if name in self.of_samples or isinstance(split, TextSplit):
            return self.of_samples.get(name, -1)
        return self.of_samples.get(Path(name).name, -1)


def chosen_attribute(topics: Sequence[str], file: Path | None, splits: Sequence[Split] = ()) -> SiteAttribute | None:
    """The one that is asked for; None where none is. `splits`: what it has to fit.

    Raises ConfigurationError for a choice that fits no data of the kind, DataError for a file that cannot be read.
    """
    if topics and file is not None:
        raise ConfigurationError(
            "--topic and --attributes: give one of them, for one attribute is looked for at a time"
        )
    if topics:
        if any(isinstance(split, ImageSplit) for split in splits):
            raise ConfigurationError("--topic: these samples have no text; give --attributes, a file with a column")
        if not all(topic.strip() for topic in topics):
            raise ConfigurationError("--topic: an empty word; give a word that texts have")
        return SiteAttribute(name=", ".join(topics), topics=tuple(topic.strip() for topic in topics))
    if file is None:
        return None
    attribute = _read(file)
    if splits and (attribute.values(splits[:1]) < 0).all():
        first = splits[0]
        name = first.texts[0] if isinstance(first, TextSplit) else sample_name(first, 0)
        raise DataError(
            f"{file}: names no training sample; the column {_KEY!r} holds a picture's file name, a pair's id or a whole"
            f" text, such as {name[:80]!r}"
        )
    return attribute


def _read(path: Path) -> SiteAttribute:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, strict=True))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a CSV file in UTF-8: {error}") from None
    if not rows or len(rows[0]) != 2 or rows[0][0] != _KEY or not rows[0][1].strip():
        raise DataError(f"{path}, line 1: must name two columns, {_KEY!r} and the attribute, such as {_KEY},sex")
    numbers: dict[str, int] = {}
    values: dict[str, int] = {}
    for row, fields in enumerate(rows[1:], start=2):
        if not fields:
            continue
        if len(fields) != 2 or not fields[0] or not fields[1]:
            raise DataError(f"{path}, row {row}: must have a sample and its value, and has {len(fields)} fields")
        if fields[0] in values:
            raise DataError(f"{path}, row {row}: {fields[0][:80]!r} stands there twice")
        values[fields[0]] = numbers.setdefault(fields[1], len(numbers))
    if not 2 <= len(numbers) <= _MOST_VALUES:
        raise DataError(f"{path}: has {len(numbers)} values; an attribute has 2 to {_MOST_VALUES}")
    return SiteAttribute(name=rows[0][1].strip(), of_samples=values)
