"""A site's samples as an attacker with the server's encoder sees them, with or without the words of a topic.

Shape legend: M samples, D embedding dimension.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedafd.artifacts.folders import unpack_folder
from fedafd.datasets.samples import PairSplit, Split, TextSplit
from fedafd.domain.kinds import Modality
from fedafd.learning.leakage import Rows
from fedafd.learning.lora import merged_files
from fedafd.learning.optimizers import choose_device
from fedafd.learning.sample_encoder import SampleEncoder, encode_all

__all__ = ["global_features", "of_each_text", "topic_values", "without_topics"]


def global_features(
    bundle: bytes, modality: Modality, splits: Sequence[Split], device: str = "auto", *, topics: Sequence[str] = ()
) -> Rows:
    """Features [M, D] of all samples of `splits` by the packed encoder; a pair has one for each of its captions.

    Words of `topics` are taken out of texts first.
    """
    where = choose_device(device)
    encoder = SampleEncoder.from_files(merged_files(unpack_folder(bundle))).to(where)
    features = []
    for split in splits:
        if not len(split):
            continue
        if modality is Modality.IMAGE:
            assert not isinstance(split, TextSplit)
            features.append(encode_all(encoder, encoder.rows(split.images), where))
        else:
            texts = [without_topics(text, topics) for captions in _texts(split) for text in captions]
            features.append(encode_all(encoder, encoder.rows(texts), where))
    return np.concatenate(features) if features else np.zeros((0, encoder.dim), dtype=np.float32)


def of_each_text(values: NDArray[np.int64], splits: Sequence[Split]) -> NDArray[np.int64]:
    """A value of each sample, repeated for each of its texts, as `global_features` has them."""
    counts = [len(captions) for split in splits for captions in _texts(split)]
    return np.repeat(values, counts)


def topic_values(splits: Sequence[Split], topics: Sequence[str]) -> NDArray[np.int64]:
    """Of each sample the number of the first topic whose word one of its texts has; without any, their count."""
    patterns = [_pattern([topic]) for topic in topics]

    def value(texts: Sequence[str]) -> int:
        matching = (i for i, pattern in enumerate(patterns) if any(pattern.search(text) for text in texts))
        return next(matching, len(patterns))

    return np.array([value(texts) for split in splits for texts in _texts(split)], dtype=np.int64)


def without_topics(text: str, topics: Sequence[str]) -> str:
    """The text without the words of the topics, whatever their capitals."""
    return " ".join(_pattern(topics).sub(" ", text).split()) if topics else text


def _texts(split: Split) -> Sequence[Sequence[str]]:
    if isinstance(split, PairSplit):
        return split.captions
    assert isinstance(split, TextSplit)
    return [(text,) for text in split.texts]


def _pattern(topics: Sequence[str]) -> re.Pattern[str]:
    """A topic's words as whole words, with or without a plural's s."""
    return re.compile(r"\b(?:" + "|".join(re.escape(topic) for topic in topics) + r")s?\b", re.IGNORECASE)
