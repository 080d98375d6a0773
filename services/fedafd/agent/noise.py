"""Noise on the representations that leave, where `share.representation_noise` asks for it, and what it is worth.

Shape legend: N public samples, D embedding dimension. Rows have unit length, so that is their clipping: whatever one
private sample changes, no row moves farther than 2. The noise is drawn anew for each delivery from the operating
system's random source: the federation knows every seed of its own, and could subtract what follows from one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fedafd.domain.kinds import Modality

__all__ = ["gaussian_epsilon", "noised"]

_FARTHEST = 2.0
"""How far a unit row can move."""


def noised(reps: Mapping[Modality, NDArray[np.float32]], noise: float) -> dict[Modality, NDArray[np.float32]]:
    """Rows [N, D] with Gaussian noise whose length is `noise` on average, and of unit length again; 0: as they are."""
    if not noise:
        return dict(reps)
    generator = np.random.default_rng(int.from_bytes(os.urandom(32), "big"))
    return {modality: _noised(rows, noise, generator) for modality, rows in reps.items()}


def _noised(rows_ND: NDArray[np.float32], noise: float, generator: np.random.Generator) -> NDArray[np.float32]:
    lengths_N1 = np.linalg.norm(rows_ND, axis=1, keepdims=True)
    clipped_ND = rows_ND / np.maximum(lengths_N1, 1.0)
    moved_ND = clipped_ND + generator.normal(0.0, noise / math.sqrt(rows_ND.shape[1]), rows_ND.shape)
    unit_ND = moved_ND / np.maximum(np.linalg.norm(moved_ND, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    sent_ND: NDArray[np.float32] = unit_ND.astype(np.float32)
    return sent_ND


def gaussian_epsilon(noise: float, *, num_rows: int, dim: int, rounds: int = 1, delta: float = 1e-6) -> float:
    """Epsilon at `delta` of releasing that many noised rows in each round; infinite without noise.

    By zero-concentrated differential privacy, arXiv 1605.02065: rho = sensitivity^2 / (2 sigma^2) adds up over rounds,
    with sensitivity^2 = 4 N, as one private sample may turn every row around, and sigma = noise / sqrt(D).
    """
    if not noise:
        return math.inf
    rho = rounds * _FARTHEST**2 * num_rows * dim / (2 * noise**2)
    return rho + 2 * math.sqrt(rho * math.log(1 / delta))
