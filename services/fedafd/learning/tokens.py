"""Words as numbers: a word-level tokenizer that is the same for the same texts, or the one of pretrained weights.

In the former 0 pads and 1 stands for unknown words. Scripts that are written without spaces between words are split
into characters: a letter with its vowel signs and stacked consonants. Tibetan needs no such rule: its tsheg, a point
between syllables, is punctuation, at which words end.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor

from fedafd.domain.config import EncoderConfig
from fedafd.domain.errors import DataError
from fedafd.learning.pretrained import pretrained_tokenizer
from fedafd.learning.sound_tokenizer import panics_told

__all__ = ["PAD", "build_tokenizer", "padding_id", "token_ids", "tokenizer_for", "unknown_share"]

PAD, UNKNOWN = "[PAD]", "[UNK]"
_LIMIT = 20_000
_AT_ONCE = 20_000
"""Characters."""
_SPACELESS = (
    *("Han", "Hiragana", "Katakana", "Bopomofo", "Yi", "Tangut", "Nushu", "Thai", "Lao", "Myanmar", "Khmer"),
    *("Tai_Le", "New_Tai_Lue", "Tai_Tham", "Tai_Viet", "Ahom", "Javanese", "Balinese"),
)
"""Scripts without spaces between words: Unicode's line breaking classes ID, SA, AK and CJ."""
_CHARACTER = (
    r"[[{scripts}\u30FC\u3006\x{{20000}}-\x{{3FFFF}}]&&[\p{{L}}\p{{Nl}}]]"  # ー and 〆 belong to several scripts
    r"(?:[\u1039\u17D2\u1A60\u1B44\uA9C0]\p{{L}}|\p{{M}})*"  # signs that stack the next consonant
).format(scripts="".join(rf"\p{{{script}}}" for script in _SPACELESS))


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


def token_ids(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int, *, rows: int | None = None) -> Tensor:
    """int64 [len(texts), max_tokens]; cut at the end, padded with `padding_id`; an empty text is one unknown word.

    A pretrained tokenizer cuts by itself, so that its closing token is kept. `rows`: of the embedding that is looked
    up; None: not known. Raises DataError for ids beyond it, which would break a GPU's process for good.
    """
    ids = np.full((len(texts), max_tokens), padding_id(tokenizer), dtype=np.int64)
    with panics_told("tokenizer"):
        for first, some in _parts(texts):
            for row, encoded in zip(ids[first:], tokenizer.encode_batch_fast(some), strict=False):
                kept = encoded.ids[:max_tokens] or [1]
                row[: len(kept)] = kept
    if rows is not None and ids.size and ids.max() >= rows:
        raise DataError(f"tokenizer: makes id {ids.max()}, but the encoder knows {rows} tokens")
    return torch.from_numpy(ids)


def _parts(texts: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """All texts, some at once, and where those begin: what a tokenizer notes of a text is far larger than the text."""
    first, some, size = 0, list[str](), 0
    for number, text in enumerate(texts):
        some.append(text)
        size += len(text)
        if size > _AT_ONCE:
            yield first, some
            first, some, size = number + 1, [], 0
    if some:
        yield first, some


def unknown_share(tokenizer: Tokenizer, texts: Iterable[str]) -> float:
    """Share, 0 to 1, of the tokens of `texts` that the vocabulary lacks; a text without a token is one unknown word."""
    unknown = _unknown_id(tokenizer)
    lacking = total = 0
    for encoded in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False):
        ids = [token for token, real in zip(encoded.ids, encoded.attention_mask, strict=True) if real]
        lacking += sum(token == unknown for token in ids) if ids else 1
        total += len(ids) or 1
    return lacking / total if total else 0.0


def _unknown_id(tokenizer: Tokenizer) -> int | None:
    model = json.loads(tokenizer.to_str())["model"]
    token = model.get("unk_token")
    unknown: int | None = model.get("unk_id") if token is None else tokenizer.token_to_id(token)
    return unknown


def padding_id(tokenizer: Tokenizer) -> int:
    """The id that stands for no token: a pretrained tokenizer's own, else 0."""
    return int(tokenizer.padding["pad_id"]) if tokenizer.padding else 0


def _tokenizer(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_CHARACTER), "isolated"), pre_tokenizers.Whitespace()]
    )
    return tokenizer
