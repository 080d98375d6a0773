"""Words as numbers: a word-level tokenizer that is the same for the same texts. 0 pads, 1 stands for unknown words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor

__all__ = ["PAD", "build_tokenizer", "token_ids"]

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


def token_ids(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int) -> Tensor:
    """int64 [len(texts), max_tokens]; cut at the end, padded with 0; an empty text is one unknown word."""
    ids = torch.zeros(len(texts), max_tokens, dtype=torch.int64)
    for row, encoded in enumerate(tokenizer.encode_batch(list(texts))):
        kept = encoded.ids[:max_tokens] or [1]
        ids[row, : len(kept)] = torch.tensor(kept)
    return ids


def _tokenizer(vocabulary: dict[str, int]) -> Tokenizer:
    made = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace()])
    return made
