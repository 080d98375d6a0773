"""The global model as its users see it: a folder that embeds images and texts, with no service running."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedafd.datasets.intensity import IntensityRange
from fedafd.domain.kinds import Modality
from fedafd.learning.inputs import ImageSample, TextSample
from fedafd.learning.loaded_model import LoadedModel, device_named
from fedafd.learning.model_folder import GLOBAL_MODEL, ModelFolder, read_whole
from fedafd.learning.sample_encoder import SampleEncoder

__all__ = ["GlobalModel"]


class GlobalModel(LoadedModel):
    """Image and text encoders of one global model version."""

    kind = "pair"

    def __init__(
        self,
        encoders: dict[Modality, SampleEncoder],
        *,
        device: torch.device | None = None,
        intensity_range: IntensityRange | None = None,
    ) -> None:
        super().__init__(
            {m: [encoder] for m, encoder in encoders.items()}, device or torch.device("cpu"), intensity_range
        )

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, device: str = "auto", intensity_range: IntensityRange | None = None
    ) -> GlobalModel:
        """Load a model folder onto `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.

        `intensity_range`: the window for images of more than eight bits. Raises DataError naming the file or tensor
        that is missing or does not fit, ConfigurationError for a device that is not there.
        """
        chosen = device_named(device)
        return cls(read_whole(folder, _encoders), device=chosen, intensity_range=intensity_range)

    def embed_images(self, images: Iterable[ImageSample]) -> NDArray[np.float32]:
        """Unit rows [n, D], float32. Raises DataError naming the image that cannot be read."""
        return self._rows(Modality.IMAGE, images)

    def embed_texts(self, texts: Iterable[TextSample]) -> NDArray[np.float32]:
        """Unit rows [n, D], float32. Raises DataError naming the text that cannot be read."""
        return self._rows(Modality.TEXT, texts)

    def _embedded(self, modality: Modality, batch: Sequence[Tensor]) -> Tensor:
        vector_BD: Tensor = self._encoders[modality][0](batch[0]).vector_BD
        return vector_BD


def _encoders(folder: ModelFolder) -> dict[Modality, SampleEncoder]:
    folder.need(GLOBAL_MODEL)
    return {modality: folder.encoder(modality.value) for modality in Modality}
