"""What the models that users load have in common: a device, and embedding of whatever samples they have.

Shape legend: n samples, D embedding dimension.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedafd.datasets.intensity import IntensityRange
from fedafd.domain.errors import ConfigurationError, InvalidRequestError
from fedafd.domain.kinds import Modality
from fedafd.learning.inputs import OnBad, Reader
from fedafd.learning.optimizers import choose_device
from fedafd.learning.sample_encoder import SampleEncoder

__all__ = ["LoadedModel", "device_named"]

_DEVICES = re.compile(r"auto|cpu|mps|cuda(:[0-9]{1,4})?")


class LoadedModel:
    """Encoders on a device; each class of models says which, and what it makes of their features."""

    kind: str
    """`image`, `text` or `pair`: what the model takes."""

    def __init__(
        self, encoders: dict[Modality, list[SampleEncoder]], device: torch.device, window: IntensityRange | None
    ) -> None:
        self.device = device
        self.intensity_range = window
        """The values that become black and white in images of more than eight bits; None: as their depth says."""
        self._encoders = {modality: [t.eval().to(device) for t in group] for modality, group in encoders.items()}

    @property
    def dim(self) -> int:
        """The embedding dimension D."""
        return next(iter(self._encoders.values()))[0].dim

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What the model has encoders of, image first."""
        return tuple(modality for modality in Modality if modality in self._encoders)

    def each_batch(
        self, modality: Modality, samples: Iterable[Any], on_bad: OnBad | None = None
    ) -> Iterator[tuple[list[int], list[Tensor]]]:
        """As `Reader.batches`, on the model's device. Raises InvalidRequestError for a modality it has not."""
        if modality not in self._encoders:
            raise InvalidRequestError(f"this is a model of kind {self.kind}; it has no {modality.value} encoder")
        for positions, batch in Reader(self._encoders[modality], self.intensity_range).batches(samples, on_bad):
            yield positions, [rows.to(self.device) for rows in batch]

    def each_embedded(
        self, modality: Modality, samples: Iterable[Any], on_bad: OnBad | None = None
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Place and unit row [D] of each sample that can be read, batch by batch."""
        for positions, batch in self.each_batch(modality, samples, on_bad):
            with torch.inference_mode():
                rows = self._embedded(modality, batch)
            yield from zip(positions, rows.float().cpu().numpy(), strict=True)

    def _embedded(self, modality: Modality, batch: Sequence[Tensor]) -> Tensor:
        raise NotImplementedError

    def _rows(self, modality: Modality, samples: Iterable[Any]) -> NDArray[np.float32]:
        rows = [row for _, row in self.each_embedded(modality, samples)]
        return np.stack(rows) if rows else np.zeros((0, self.dim), dtype=np.float32)


def device_named(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps`. Raises ConfigurationError for another, or one that is not here."""
    if not _DEVICES.fullmatch(name):
        raise ConfigurationError(f"device: {name!r} is not one of auto, cpu, cuda, cuda:N, mps")
    return choose_device(name)
