"""Samples as users have them - paths, file contents, Pillow images, arrays, texts - read for encoders, batch by batch.

Images go through the decoder that training uses. Memory holds one batch, at the encoders' size, however many there are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fedafd.datasets.decoding import ImageArray, as_rgb, decode_image
from fedafd.datasets.files import read_bytes
from fedafd.datasets.intensity import IntensityRange
from fedafd.datasets.pixels import resized
from fedafd.datasets.texts import decoded, sound_text
from fedafd.domain.errors import DataError, InvalidRequestError
from fedafd.domain.kinds import Modality
from fedafd.learning.images import fit_of
from fedafd.learning.sample_encoder import SampleEncoder

__all__ = ["BATCH", "ImageSample", "OnBad", "Reader", "TextSample"]

BATCH = 64

ImageSample = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]
"""A path, a file's content, a Pillow image, or an array: [h, w], or [h, w, 1 to 4]."""
TextSample = str | os.PathLike[str] | bytes
"""A text, the path of a file that holds one, or UTF-8."""
OnBad = Callable[[int, DataError], None]
"""Is told the place of each sample that cannot be read, and why."""


class Reader:
    """Reads samples of one modality for encoders that may want them at different sizes, with different vocabularies."""

    def __init__(self, encoders: Sequence[SampleEncoder], window: IntensityRange | None = None) -> None:
        self._encoders, self._window = encoders, window
        self._modality = encoders[0].modality
        self._fits = {fit_of(encoder.config) for encoder in encoders}

    def batches(self, samples: Iterable[Any], on_bad: OnBad | None = None) -> Iterator[tuple[list[int], list[Tensor]]]:
        """Places of the readable samples of each batch, counted from 0 over all, and what each encoder takes of them.

        Raises DataError for a sample that cannot be read, unless `on_bad` takes it.
        """
        _refuse_one_sample(samples)
        positions: list[int] = []
        kept: list[Any] = []
        for position, sample in enumerate(samples):
            try:
                kept.append(self._read(sample, position))
            except DataError as error:
                if on_bad is None:
                    raise
                on_bad(position, error)
                continue
            positions.append(position)
            if len(kept) == BATCH:
                yield positions, self._tensors(kept)
                positions, kept = [], []
        if kept:
            yield positions, self._tensors(kept)

    def _read(self, sample: Any, position: int) -> Any:
        if self._modality is Modality.TEXT:
            return _text(sample, f"text {position + 1}")
        image = _image(sample, f"image {position + 1}", self._window)
        return {fit: resized(image, fit) for fit in self._fits}

    def _tensors(self, kept: list[Any]) -> list[Tensor]:
        if self._modality is Modality.TEXT:
            return [encoder.read(kept) for encoder in self._encoders]
        stacked = {fit: torch.from_numpy(np.stack([entry[fit] for entry in kept])) for fit in self._fits}
        return [stacked[fit_of(encoder.config)] for encoder in self._encoders]


def _image(sample: ImageSample, name: str, window: IntensityRange | None) -> ImageArray:
    if isinstance(sample, str | os.PathLike):
        return decode_image(_content(sample), os.fspath(sample), intensity_range=window)
    name = str(getattr(sample, "filename", "") or name)
    return as_rgb(sample, name, intensity_range=window)


def _text(sample: TextSample, name: str) -> str:
    if isinstance(sample, os.PathLike):
        return decoded(_content(sample), os.fspath(sample))
    if isinstance(sample, bytes):
        return decoded(sample, name)
    if not isinstance(sample, str):
        raise DataError(f"{name}: is {type(sample).__name__}; give a text, bytes of UTF-8 or the path of a file")
    return sound_text(sample, name)


def _content(path: str | os.PathLike[str]) -> bytes:
    file = Path(path)
    try:
        there, plain = file.exists(), file.is_file()
    except (OSError, ValueError) as error:
        raise DataError(f"{_shown(file)}: cannot be read: {error}") from None
    if not plain:
        raise DataError(f"{_shown(file)}: {'is no file' if there else 'no such file'}")
    return read_bytes(file)


def _shown(path: Path) -> str:
    """A path in one line, whatever its characters."""
    text = str(path)
    return text if text.isprintable() and len(text) < 1000 else ascii(text[:1000])


def _refuse_one_sample(samples: object) -> None:
    one = isinstance(samples, str | bytes | os.PathLike | Image.Image)
    if one or (isinstance(samples, np.ndarray) and samples.ndim < 4):
        raise InvalidRequestError(f"expected samples, found one {type(samples).__name__}; put it into a list")
