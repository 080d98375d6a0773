"""A client's splits as tensors, with the frozen global features of each sample computed once per round."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedafd.datasets.samples import ImageSplit, PairSplit, Split, TextSplit
from fedafd.domain.kinds import Modality
from fedafd.learning.images import augmented
from fedafd.learning.public import PairTensors
from fedafd.learning.tower import Tower, encode_all

__all__ = ["SplitTensors"]


class SplitTensors:
    """One split, read by the local towers. Rows of texts of a pair split are its captions, all of them."""

    def __init__(self, split: Split, towers: Mapping[Modality, Tower]) -> None:
        self.labels: Tensor | None = None
        self.pairs: PairTensors | None = None
        self.rows: dict[Modality, Tensor] = {}
        if isinstance(split, PairSplit):
            self.pairs = PairTensors(split, dict(towers))
            self.rows = {Modality.IMAGE: self.pairs.fixed(Modality.IMAGE), Modality.TEXT: self.pairs.all_captions()}
        elif isinstance(split, ImageSplit):
            self.rows = {Modality.IMAGE: towers[Modality.IMAGE].read(split.images)}
            self.labels = torch.from_numpy(split.labels)
        elif isinstance(split, TextSplit):
            self.rows = {Modality.TEXT: towers[Modality.TEXT].read(split.texts)}
            self.labels = torch.from_numpy(split.labels)
        self.count = len(split)

    @staticmethod
    def global_features(split: Split, towers: Mapping[Modality, Tower], device: torch.device) -> dict[Modality, Tensor]:
        """Unit rows of the frozen global encoders for the same rows, without augmentation: once is enough."""
        read = SplitTensors(split, towers).rows
        return {m: torch.from_numpy(encode_all(towers[m], rows, device)) for m, rows in read.items()}

    def batch(
        self, indices: Tensor, generator: torch.Generator, *, augment: bool
    ) -> tuple[dict[Modality, Tensor], dict[Modality, Tensor]]:
        """Input rows of the samples `indices`, and which rows of the split they are; pairs draw one caption each."""
        which = dict.fromkeys(self.rows, indices)
        if self.pairs is not None:
            drawn = (torch.rand(len(indices), generator=generator) * self.pairs.counts[indices]).long()
            which[Modality.TEXT] = self.pairs.starts[indices] + drawn
        rows = {modality: self.rows[modality][chosen] for modality, chosen in which.items()}
        if augment and Modality.IMAGE in rows:
            rows[Modality.IMAGE] = augmented(rows[Modality.IMAGE], generator)
        return rows, which
