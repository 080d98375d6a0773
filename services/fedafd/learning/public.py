"""The public set as tensors. N samples; each with one or more captions, of which the first one is encoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedafd.domain.kinds import Modality
from fedafd.learning.feeding import gathered, resident
from fedafd.learning.sample_encoder import SampleEncoder

__all__ = ["PairTensors", "Pairs"]


class Pairs(Protocol):
    """Images with captions, such as fedafd.datasets.PairSplit."""

    @property
    def images(self) -> Sequence[NDArray[np.uint8]]: ...
    @property
    def captions(self) -> Sequence[tuple[str, ...]]: ...
    def __len__(self) -> int: ...


class PairTensors:
    """Samples read once by the encoders of the modalities that are asked for."""

    def __init__(self, pairs: Pairs, encoders: dict[Modality, SampleEncoder]) -> None:
        self.count = len(pairs)
        self._pixels = encoders[Modality.IMAGE].rows(pairs.images) if Modality.IMAGE in encoders else None
        self.counts = torch.tensor([len(captions) for captions in pairs.captions])
        self.starts = torch.cumsum(self.counts, 0) - self.counts
        self._ids: Tensor | None = None
        if Modality.TEXT in encoders:
            self._ids = encoders[Modality.TEXT].rows([text for captions in pairs.captions for text in captions])

    def keep_on(self, device: torch.device) -> None:
        """Move pixels and tokens to `device`, where there is room; draws stay on the host."""
        self._pixels, self._ids = (
            None if tensor is None else resident(tensor, device) for tensor in (self._pixels, self._ids)
        )

    def to_tensors(self) -> dict[str, Tensor]:
        """All that there is to keep, for `from_tensors`."""
        tensors = {"pixels": self._pixels, "ids": self._ids, "counts": self.counts}
        return {name: tensor.cpu().contiguous() for name, tensor in tensors.items() if tensor is not None}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> PairTensors:
        """The same samples, not copied."""
        pairs = object.__new__(cls)
        pairs.counts = tensors["counts"]
        pairs.count = len(pairs.counts)
        pairs.starts = torch.cumsum(pairs.counts, 0) - pairs.counts
        pairs._pixels, pairs._ids = tensors.get("pixels"), tensors.get("ids")
        return pairs

    @property
    def image_of_text(self) -> Tensor:
        """Row of the image that each caption describes."""
        return torch.repeat_interleave(torch.arange(self.count), self.counts)

    def fixed(self, modality: Modality) -> Tensor:
        """All samples in order, each with its first caption."""
        if modality is Modality.IMAGE:
            assert self._pixels is not None
            return self._pixels
        assert self._ids is not None
        return gathered(self._ids, self.starts)

    def all_captions(self) -> Tensor:
        """Every caption of every sample, in order."""
        assert self._ids is not None
        return self._ids

    def drawn(self, modality: Modality, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Samples `rows`, each with one of its captions at random."""
        if modality is Modality.IMAGE:
            assert self._pixels is not None
            return gathered(self._pixels, rows)
        assert self._ids is not None
        which = (torch.rand(len(rows), generator=generator) * self.counts[rows]).long()
        return gathered(self._ids, self.starts[rows] + which)
