"""The global model as its users see it: a folder that embeds images and texts, with no service running."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fedafd.domain.errors import DataError
from fedafd.domain.kinds import Modality
from fedafd.learning.tower import Tower, encode_all

__all__ = ["GlobalModel", "image_arrays", "read_folder"]


class GlobalModel:
    """Image and text encoders of one global model version."""

    def __init__(self, towers: dict[Modality, Tower]) -> None:
        self._towers = towers

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> GlobalModel:
        """Load a model folder. Raises DataError naming what is missing."""
        files = read_folder(Path(folder))
        return cls({modality: Tower.from_files(files, f"{modality.value}/") for modality in Modality})

    def embed_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Unit rows [n, D], float32."""
        return _embed(self._towers[Modality.IMAGE], image_arrays(images))

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit rows [n, D], float32."""
        return _embed(self._towers[Modality.TEXT], list(texts))


def image_arrays(images: Sequence[Image.Image]) -> list[NDArray[np.uint8]]:
    """Pillow images as uint8 arrays [height, width, 3]."""
    return [np.asarray(image.convert("RGB"), dtype=np.uint8) for image in images]


def read_folder(folder: Path) -> dict[str, bytes]:
    """All files of a model folder by relative path. Raises DataError if it is none."""
    if not (folder / "config.json").is_file():
        raise DataError(f"{folder}: not a model folder; it has no config.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _embed(tower: Tower, samples: Sequence[object]) -> NDArray[np.float32]:
    if not samples:
        return np.zeros((0, tower.dim), dtype=np.float32)
    return encode_all(tower, tower.read(samples), torch.device("cpu"))
