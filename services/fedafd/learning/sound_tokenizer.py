"""A tokenizer that came as a file: refused where it would make far more of a text than a text has.

A tokenizer.json says what is done to a text: it may pad each one to a billion tokens, put thousands around it, or write
a page for each letter. And what tokenizers cannot do ends it as a panic, which in Python is no Exception: left alone it
would end the process.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tokenizers import Tokenizer

from fedafd.domain.errors import DataError
from fedafd.domain.hashing import sha256_of

__all__ = ["panics_told", "read_tokenizer"]

_MOST_TOKENS = 4096
"""That a text is padded to; an encoder reads 512 at most."""
_MOST_GROWTH = 200
"""Characters that one may become. SentencePiece's rules for Unicode make 33 of one."""
_MOST_STEPS = 64
"""Of each part: rules for a text, rules for where it is cut, rules for what is put around."""
_MOST_PIECES, _MOST_IDS, _MOST_PREPENDED = 64, 16, 100
_KEEP_LENGTH = frozenset({"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Strip", "StripAccents"})
"""But for a few characters, and however often they are done."""
_PLAIN_PROCESSORS = frozenset({"BertProcessing", "ByteLevel", "RobertaProcessing"})
_MOST_KNOWN = 256
_known: dict[str, None] = {}
"""Hashes of the files that were looked at here before."""


def read_tokenizer(content: bytes, where: str) -> Tokenizer:
    """The tokenizer of a file. Raises DataError naming `where` for what is none, or makes too much of a text."""
    with panics_told(where):
        try:
            _check(content, where)
            return Tokenizer.from_str(content.decode())
        except DataError:
            raise
        except Exception as error:  # tokenizers raises Exception itself
            raise DataError(f"{where}: is not a tokenizer: {error}") from None


@contextmanager
def panics_told(where: str) -> Iterator[None]:
    """Within, a panic of tokenizers' own code is a DataError that names `where`, without what it says of a text."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
    else:
        return
    raise DataError(f"{where}: the tokenizer broke down, by its own settings or on a text")


def _check(content: bytes, where: str) -> None:
    sha256 = sha256_of(content)
    if sha256 in _known:
        return
    values = json.loads(content)
    if not isinstance(values, dict):
        raise ValueError("holds no keys and values")
    for fault in _faults(values):
        raise DataError(f"{where}: {fault}; such a tokenizer is not used")
    _known[sha256] = None
    while len(_known) > _MOST_KNOWN:
        del _known[next(iter(_known))]


def _faults(values: Mapping[str, Any]) -> Iterator[str]:
    padding, truncation = values.get("padding") or {}, values.get("truncation") or {}
    strategy = padding.get("strategy")
    longest = [padding.get("pad_to_multiple_of") or 0, *(strategy.values() if isinstance(strategy, Mapping) else ())]
    if max(longest) > _MOST_TOKENS:
        yield f"pads each text to {max(longest)} tokens"
    if truncation.get("stride"):
        yield "cuts a text into pieces that overlap"
    steps = [list(_steps(values.get(part), inner)) for part, inner in _PARTS.items()]
    if max(map(len, steps)) > _MOST_STEPS:
        yield f"has more than {_MOST_STEPS} rules for a text"
    writes, cuts, puts = steps
    growth = math.prod(_growth(step) for step in writes) * 2.0 ** sum(step.get("type") == "ByteLevel" for step in cuts)
    if growth > _MOST_GROWTH:
        yield f"may make {growth:.0f} characters of one"
    for step in puts:
        yield from _put_around(step)


_PARTS = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "post_processor": "processors"}
"""What a sequence of each part calls its steps."""


def _steps(step: Any, inner: str) -> Iterator[Mapping[str, Any]]:
    """Those of a part of the file, however they are nested."""
    if not isinstance(step, Mapping):
        return
    if step.get("type") != "Sequence":
        yield step
        return
    for below in step[inner]:
        yield from _steps(below, inner)


def _growth(step: Mapping[str, Any]) -> float:
    """How many characters a rule may make of one."""
    kind = step.get("type")
    if kind in _KEEP_LENGTH:
        return 1.0
    if kind == "ByteLevel":
        return 2.0
    if kind == "Prepend" and len(step["prepend"]) <= _MOST_PREPENDED:
        return 1.0
    if kind == "Replace":
        written, pattern = len(step["content"]), step["pattern"]
        # An expression may find nothing between any two characters, and what is written is put there.
        return max(1.0, written / max(len(pattern["String"]), 1)) if "String" in pattern else 1.0 + written
    if kind == "Precompiled":
        return float(max(1, _longest_written(base64.b64decode(step["precompiled_charsmap"]))))
    return math.inf


def _longest_written(rules: bytes) -> int:
    """Characters of the longest text in SentencePiece's compiled rules: a trie, and the texts behind it."""
    (trie,) = struct.unpack_from("<I", rules)
    return max(map(len, rules[4 + trie :].decode(errors="replace").split("\0")))


def _put_around(step: Mapping[str, Any]) -> Iterator[str]:
    if step.get("type") in _PLAIN_PROCESSORS:
        return
    if step.get("type") != "TemplateProcessing":
        yield f"puts tokens around a text by {str(step.get('type'))[:40]!r}, which is not known here"
        return
    pieces = step["single"]
    if len(pieces) > _MOST_PIECES or sum("Sequence" in piece for piece in pieces) > 1:
        yield f"puts {len(pieces)} pieces around a text, or the text more than once"
    if any(len(token["ids"]) > _MOST_IDS for token in step["special_tokens"].values()):
        yield f"has a special token of more than {_MOST_IDS} tokens"
