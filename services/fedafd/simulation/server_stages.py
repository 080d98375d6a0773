"""The server's stages of many runs: what several runs would do alike is done once and kept.

Until a run distils for the first time, its server depends on the seed and the server's settings alone, so that all
strategies share those stages; those that never distil share them to the end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from fedafd.datasets.samples import PairSplit
from fedafd.domain.config import FederationConfig
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import Modality
from fedafd.learning.server_round import Prepared, distil, distils, prepare
from fedafd.simulation.files import write_folder
from fedafd.simulation.round_stages import UNKEPT, RoundStages

__all__ = ["ServerStages"]

Progress = Callable[[float, str], None]
Reps = Mapping[Modality, NDArray[np.float32]]
_STATE, _REPS = "state", "representations.safetensors"


class ServerStages:
    """Prepares and distils as fedafd.learning.server_round does.

    `folder`: where to keep, one folder for one public set; None keeps nothing.
    """

    def __init__(self, config: FederationConfig, public: PairSplit, *, device: str, folder: Path | None = None) -> None:
        self._config, self._public, self._device, self._folder = config, public, device, folder

    def prepare(
        self,
        state: bytes,
        number: int,
        seed: int,
        stages: RoundStages = UNKEPT,
        progress: Progress = lambda _, __: None,
    ) -> Prepared:
        """Round `number`'s preparation of `state`. What is this run's alone is kept in `stages`."""
        shared = None if distils(self._config, number - 1) else self._shared_file("prepare", state, number, seed)
        folder = shared or stages.file("prepare")
        if folder is not None and folder.exists():
            return self._prepared(folder)
        prepared = prepare(
            config=self._config,
            state=state,
            public=self._public,
            round_number=number,
            seed=seed,
            device=self._device,
            progress=progress,
            waypoints=stages.waypoints("prepare"),
        )
        if folder is not None:
            reps = save({modality.value: rows for modality, rows in prepared.representations.items()})
            bundles = {modality.value: bundle for modality, bundle in prepared.bundles.items()}
            write_folder(folder, {_STATE: prepared.state, _REPS: reps, **bundles})
        return prepared

    def distil(
        self,
        state: bytes,
        number: int,
        seed: int,
        representations: Reps,
        aggregates: Reps,
        stages: RoundStages = UNKEPT,
        progress: Progress = lambda _, __: None,
    ) -> bytes:
        """Round `number`'s distillation, or the pass that stands in its place."""
        alone = not distils(self._config, number) or not aggregates
        folder = (self._shared_file("distil", state, number, seed) if alone else None) or stages.file("distil")
        if folder is not None and folder.exists():
            return (folder / _STATE).read_bytes()
        distilled = distil(
            config=self._config,
            state=state,
            public=self._public,
            representations=representations,
            aggregates=aggregates,
            round_number=number,
            seed=seed,
            device=self._device,
            progress=progress,
            waypoints=stages.waypoints("distil"),
        )
        if folder is not None:
            write_folder(folder, {_STATE: distilled})
        return distilled

    def _shared_file(self, stage: str, state: bytes, number: int, seed: int) -> Path | None:
        """Where a stage that distils nothing is kept: a hash of all that it depends on."""
        if self._folder is None:
            return None
        config = self._config
        described: dict[str, Any] = {
            "stage": stage,
            "round": number,
            "seed": seed,
            "device": self._device,
            "embedding_dim": config.embedding_dim,
            "image_encoder": config.image_encoder.model_dump(mode="json"),
            "text_encoder": config.text_encoder.model_dump(mode="json"),
            "server": config.server.model_dump(mode="json"),
            "distillation": [config.distillation.joint, config.distillation.passes],
            "state": sha256_of(state),
        }
        return self._folder / sha256_of(json.dumps(described, sort_keys=True).encode())[:32]

    @staticmethod
    def _prepared(folder: Path) -> Prepared:
        reps = {Modality(m): rows for m, rows in load((folder / _REPS).read_bytes()).items()}
        bundles = {modality: (folder / modality.value).read_bytes() for modality in Modality}
        return Prepared((folder / _STATE).read_bytes(), reps, bundles)
