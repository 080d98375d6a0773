"""Folds of a round on bytes: each client's state and sheet, while what all of them compare with is made ready once.

With few public samples a fold is hardly any arithmetic: then centring, checking and measuring the global
representations anew for each client would be most of it.

On a CPU several folds may run at the same time. A small one takes one thread: two side by side are done sooner than two
one after the other on two threads each, with less work. A large one takes all threads, and large ones take turns.
Which it is depends on its size alone, so that a fold which is done again has the same bits.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedafd.algorithm.distillation import SimilarityEnsemble
from fedafd.domain.config import FederationConfig
from fedafd.domain.kinds import Modality
from fedafd.learning.cores import cores
from fedafd.learning.ensemble import (
    client_weight,
    compared_rows,
    empty_ensemble,
    packed_state,
    read_state,
    state_digest,
)
from fedafd.learning.weighing import SheetMaker

__all__ = ["Folded", "Folding"]

_SMALL = 1e10
"""Products of a fold's N x N x D that one core does in about 0.2 s."""


@dataclass(frozen=True, kw_only=True)
class Folded:
    """What a fold leaves."""

    state: bytes
    sheet: bytes | None
    """None where weights are not capped."""
    sha256: str | None
    """Of the state, where the sheet needs it."""


class Folding:
    """Folds clients of a round, in as many threads as wanted."""

    def __init__(
        self, config: FederationConfig, global_reps: Mapping[Modality, NDArray[np.float32]], *, device: str = "cpu"
    ) -> None:
        """`global_reps` hold both modalities, [N, D] each."""
        self._config, self._global_reps, self._device = config, global_reps, device
        self._threads = torch.get_num_threads()
        self._empty: dict[Modality, SimilarityEnsemble] = {}
        self._sheets: dict[Modality, SheetMaker] = {}
        self._making, self._computing_large = threading.Lock(), threading.Lock()

    def fold(self, modality: Modality, reps_ND: NDArray[np.float32], *, staleness: int = 0) -> Folded:
        """One client's representations of one modality, made `staleness` rounds ago; they are written to.

        Raises InvalidTensorError.
        """
        with self._cores(modality):
            ensemble = self._empty_of(modality)
            reps = torch.from_numpy(reps_ND).to(ensemble.device)
            ensemble.add(reps, weight=client_weight(self._config, staleness), copy=False)
            state = packed_state(ensemble)
            if not self._config.distillation.caps_weights:
                return Folded(state=state, sheet=None, sha256=None)
            if ensemble.device.type != "cpu":
                ensemble = read_state(state)
            digest = state_digest(state) if self._config.distillation.trimmed_share else None
            sheet = self._sheet_maker(modality).sheet(ensemble, digest)
            return Folded(state=state, sheet=sheet, sha256=None if digest is None else digest.hex())

    @contextmanager
    def _cores(self, modality: Modality) -> Iterator[None]:
        num_samples, dim = self._global_reps[modality].shape
        if num_samples * num_samples * dim <= _SMALL:
            with cores(1):
                yield
        else:
            with self._computing_large, cores(self._threads):
                yield

    def _empty_of(self, modality: Modality) -> SimilarityEnsemble:
        with self._making:
            if modality not in self._empty:
                self._empty[modality] = empty_ensemble(self._config, modality, self._global_reps, self._device)
            return self._empty[modality].anew()

    def _sheet_maker(self, modality: Modality) -> SheetMaker:
        with self._making:
            if modality not in self._sheets:
                rows_ND = compared_rows(self._config, self._global_reps[modality])
                self._sheets[modality] = SheetMaker(self._config, modality, rows_ND)
            return self._sheets[modality]
