"""A personalized model as its site sees it: a folder that predicts, with no service running."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load
from torch import Tensor

from fedafd.domain.config import FederationConfig
from fedafd.domain.errors import DataError, InvalidRequestError
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.learning.client_model import ClientModel
from fedafd.learning.global_model import image_arrays, read_folder
from fedafd.learning.tower import Tower

__all__ = ["PersonalizedModel"]

_BATCH = 128


class PersonalizedModel:
    """One client's model: local and frozen global encoders, fused, with the client's task head."""

    def __init__(
        self, kind: ClientKind, labels: Sequence[str], model: ClientModel, frozen: dict[Modality, Tower]
    ) -> None:
        self.kind: str = kind.value
        """`image`, `text` or `pair`."""
        self.labels: tuple[str, ...] = tuple(labels)
        """Class names; empty for `pair`."""
        self._model, self._frozen = model.eval(), frozen

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> PersonalizedModel:
        """Load a model folder. Raises DataError naming what is missing or does not fit."""
        files = read_folder(Path(folder))
        try:
            described = json.loads(files["config.json"])
            kind, labels = ClientKind(described["kind"]), described["labels"]
            config = FederationConfig.model_validate(described["federation"])
            towers = {m: Tower.from_files(files, f"local/{m.value}/") for m in kind.modalities}
            frozen = {m: Tower.from_files(files, f"global/{m.value}/") for m in kind.modalities}
            model = ClientModel(config, kind, towers, len(labels))
            missing, surplus = model.load_state_dict(load(files["model.safetensors"]), strict=False)
        except (KeyError, ValueError, RuntimeError) as error:
            raise DataError(f"{folder}: not a personalized model folder: {error}") from None
        lacking = [name for name in missing if not name.startswith(("towers.", "alignment."))]
        if lacking or surplus:
            raise DataError(f"{folder}: model.safetensors lacks {lacking} or holds unknown {surplus}")
        return cls(kind, labels, model, frozen)

    def predict(self, samples: Sequence[Image.Image] | Sequence[str]) -> list[tuple[str, float]]:
        """The likeliest label of each image or text, with its probability. Raises InvalidRequestError for `pair`."""
        if self._model.head is None:
            raise InvalidRequestError("a pair client's model embeds, it has no labels; use embed_images or embed_texts")
        if not len(samples):
            return []
        with torch.inference_mode():
            odds = self._model.head(self._embed(Modality(self.kind), samples)).softmax(-1)
        best = odds.max(-1)
        return [(self.labels[int(i)], float(p)) for p, i in zip(best.values, best.indices, strict=True)]

    def embed_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Fused features as unit rows [n, D], float32."""
        return self._rows(Modality.IMAGE, images)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Fused features as unit rows [n, D], float32."""
        return self._rows(Modality.TEXT, texts)

    def _rows(self, modality: Modality, samples: Sequence[Any]) -> NDArray[np.float32]:
        if modality not in self._frozen:
            raise InvalidRequestError(f"this is a model of kind {self.kind}; it has no {modality.value} encoder")
        embedded: NDArray[np.float32] = torch.nn.functional.normalize(self._embed(modality, samples), dim=-1).numpy()
        return embedded

    @torch.inference_mode()
    def _embed(self, modality: Modality, samples: Sequence[Any]) -> Tensor:
        raw = image_arrays(samples) if modality is Modality.IMAGE else list(samples)
        local, frozen = self._model.towers[modality.value], self._frozen[modality]
        parts = []
        for start in range(0, len(raw), _BATCH):
            batch = raw[start : start + _BATCH]
            reps = self._model.centred(modality, frozen(frozen.read(batch)).vector_BD)
            parts.append(self._model.views(modality, local(local.read(batch)), reps).fused)  # type: ignore[operator]
        return torch.cat(parts)
