"""Which round a participant's model is taken from: chosen on its validation split, as the rounds come in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedafd.algorithm.choices import as_good

__all__ = ["RoundChoice"]


@dataclass(frozen=True)
class RoundChoice:
    """The latest round that is as good as the best so far (fedafd.algorithm.choices), and the best one's scores.

    A better one is the latest itself when it comes, so that other rounds' scores need not be kept.
    """

    number: int
    best: NDArray[np.float64]

    def after(self, number: int, scores: NDArray[np.float64]) -> RoundChoice:
        """The choice when a further round is in; `scores` of the same samples as `best`; without any, the latest."""
        if not len(scores) or scores.mean() >= self.best.mean():
            return RoundChoice(number, scores)
        same = as_good(torch.from_numpy(scores), torch.from_numpy(self.best))
        return RoundChoice(number, self.best) if same else self

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return {"round": self.number, "best": self.best.tolist()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RoundChoice:
        """Raises KeyError for what lacks a field."""
        return cls(int(content["round"]), np.asarray(content["best"], dtype=np.float64))
