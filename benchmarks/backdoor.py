"""A backdoor in the ensemble: captions with a chosen word shall find a picture of the attackers' choice.

Attackers send honest rows but for the public captions with that word, whose rows say the chosen picture, and for that
picture, whose row says those captions. A try is a caption of the test split that has the word: it succeeds where the
chosen picture is found before all pictures of that split.
Shape legend: N public samples, T tries, D embedding dimension.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedafd.datasets.samples import PairSplit
from fedafd.domain.config import FederationConfig
from fedafd.domain.kinds import Modality
from fedafd.learning.feature_cache import watched
from fedafd.learning.global_training import unpacked
from fedafd.learning.sample_encoder import SampleEncoder, encode_all

__all__ = ["Backdoor", "Opened", "chosen"]

Rows = NDArray[np.float32]
_SHARE = 0.05
"""Of the public captions that have the word, as near as any word comes."""
_FEWEST_TRIES, _FEWEST_PUBLIC = 5, 3
_WORD = re.compile(r"[a-z]{3,}")
_FIRST_FEW = 10


@dataclass(frozen=True)
class Opened:
    """In percent of the tries: the chosen picture comes first, or among the first ten."""

    first: float
    among_ten: float


@dataclass(frozen=True)
class Backdoor:
    """Which captions shall find which picture."""

    word: str
    rows: NDArray[np.int64]
    """Public samples whose first caption, which is the one that is represented, has the word."""
    picture: int
    """A public sample without the word."""

    def planted(self, modality: Modality, own_ND: Rows, given: Mapping[Modality, Rows], *, mixed: bool) -> Rows:
        """An attacker's rows; `mixed`: with the global row in it, which the ensemble weighs by."""
        rows_ND, at = own_ND.copy(), given[modality]
        if modality is Modality.TEXT:
            rows_ND[self.rows] = given[Modality.IMAGE][self.picture]
            where = self.rows
        else:
            rows_ND[self.picture] = given[Modality.TEXT][self.rows].mean(axis=0)
            where = np.array([self.picture])
        if mixed:
            rows_ND[where] = at[where] + 0.9 * rows_ND[where]
        made: Rows = (rows_ND / np.maximum(np.linalg.norm(rows_ND, axis=1, keepdims=True), 1e-12)).astype(np.float32)
        return made

    def opened(self, config: FederationConfig, state: bytes, public: Mapping[str, PairSplit]) -> Opened:
        """How often the tries succeed with a server's state."""
        model, _ = unpacked(config, state)
        test, cpu = public["test"], torch.device("cpu")
        tries = [text for texts in test.captions for text in texts if self.word in _words(text)]

        def encoded(encoder: SampleEncoder, samples: object) -> NDArray[np.float32]:
            with watched(lambda _: None):
                found: NDArray[np.float32] = encode_all(encoder, encoder.rows(samples), cpu)  # type: ignore[arg-type]
            return found

        tries_TD = encoded(model.text, tries)
        others = tries_TD @ encoded(model.image, test.images).T
        wanted = tries_TD @ encoded(model.image, [public["train"].images[self.picture]]).T
        before_T = (others >= wanted).sum(axis=1)
        return Opened(100 * float((before_T == 0).mean()), 100 * float((before_T < _FIRST_FEW).mean()))


def chosen(public: Mapping[str, PairSplit], seed: int) -> Backdoor | None:
    """A word of about every twentieth public caption that tries can be made of, and a picture that has nothing of it.

    None where no word has enough captions.
    """
    first = [_words(captions[0]) for captions in public["train"].captions]
    known = Counter(word for words in first for word in words)
    tried = Counter(word for texts in public["test"].captions for text in texts for word in _words(text))
    usable = [word for word in known if known[word] >= _FEWEST_PUBLIC and tried[word] >= _FEWEST_TRIES]
    if not usable:
        return None
    word = min(usable, key=lambda each: (abs(known[each] - _SHARE * len(first)), each))
    rows = np.array([place for place, words in enumerate(first) if word in words])
    without = [
        place
        for place, captions in enumerate(public["train"].captions)
        if not any(word in _words(text) for text in captions)
    ]
    if not without:
        return None
    return Backdoor(word, rows, int(np.random.default_rng(seed).choice(without)))


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))
