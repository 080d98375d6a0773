"""Words as numbers: a word-level tokenizer that is the same for the same texts, or the one of pretrained weights.

In the former 0 pads and 1 stands for unknown words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor

from fedafd.domain.config import EncoderConfig
from fedafd.learning.pretrained import pretrained_tokenizer

__all__ = ["PAD", "build_tokenizer", "padding_id", "token_ids", "tokenizer_for"]

PAD, UNKNOWN = "[PAD]", "[UNK]"
_LIMIT = 20_000


def build_tokenizer(texts: Iterable[str], limit: int = _LIMIT) -> Tokenizer:
    """Vocabulary of the most frequent words, ties in alphabetical order, so that it depends on the texts alone."""
    empty = _tokenizer({PAD: 0, UNKNOWN: 1})
    counts: Counter[str] = Counter()
    for text in texts:
        normal = empty.normalizer.normalize_str(text)
        counts.update(word for word, _ in empty.pre_tokenizer.pre_tokenize_str(normal))
    words = sorted(counts, key=lambda word: (-counts[word], word))[: limit - 2]
    return _tokenizer({PAD: 0, UNKNOWN: 1} | {word: index for index, word in enumerate(words, start=2)})


def tokenizer_for(config: EncoderConfig, texts: Iterable[str]) -> Tokenizer:
    """The tokenizer of a text encoder: the pretrained weights' own, else a vocabulary of `texts`."""
    return build_tokenizer(texts) if config.pretrained is None else pretrained_tokenizer(config)


def token_ids(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int) -> Tensor:
    """int64 [len(texts), max_tokens]; cut at the end, padded with `padding_id`; an empty text is one unknown word.

    A pretrained tokenizer cuts by itself, so that its closing token is kept.
    """
    ids = np.full((len(texts), max_tokens), padding_id(tokenizer), dtype=np.int64)
    for row, encoded in zip(ids, tokenizer.encode_batch_fast(list(texts)), strict=True):
        kept = encoded.ids[:max_tokens] or [1]
        row[: len(kept)] = kept
    return torch.from_numpy(ids)


def padding_id(tokenizer: Tokenizer) -> int:
    """The id that stands for no token: a pretrained tokenizer's own, else 0."""
    return int(tokenizer.padding["pad_id"]) if tokenizer.padding else 0


def _tokenizer(vocabulary: dict[str, int]) -> Tokenizer:
    made = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace()])
    return made
