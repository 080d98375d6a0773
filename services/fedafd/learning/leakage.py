"""What released representations tell of a site's data: membership and label distribution, inferred as a server could.

The attacker holds what the server holds: the released rows, its own global rows of the same public samples, and a
frozen global encoder by which it turns candidates into features. It has no weights of the site. An attack's advantage
is 0 where it does no better than chance and 1 where it is always right; the interval is a bootstrap's, 95 %.

Shape legend: N public samples, D embedding dimension, M members (training samples), K others, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Leakage", "Rows", "label_leakage", "measured", "membership_leakage", "turned", "unit_rows"]

Rows = NDArray[np.float32] | NDArray[np.float64]
_BLOCK = 4096
_PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """One attack's advantage."""

    advantage: float
    low: float
    high: float

    @property
    def is_shown(self) -> bool:
        """Whether the interval excludes chance."""
        return self.low > 0


def membership_leakage(
    released_ND: Rows, global_ND: Rows, members_MD: Rows, others_KD: Rows, *, seed: int = 0, resamples: int = 1000
) -> Leakage:
    """How well members are told from others: 2 AUC - 1 of one score, so that nothing is chosen on the same samples.

    The score of a candidate is its cosine with the nearest released row, less that with the nearest global row, which
    tells how near it is to the public set whatever the site trained on (difficulty calibration, arXiv 2111.08440).
    """
    rows_ND, anchors_ND, mean_1D = turned(released_ND, global_ND)
    inside_M, outside_K = (
        _nearest(rows_ND, candidates) - _nearest(anchors_ND, candidates)
        for candidates in (unit_rows(members_MD - mean_1D), unit_rows(others_KD - mean_1D))
    )

    def resampled(generator: np.random.Generator) -> float:
        return _gini(generator.choice(inside_M, inside_M.shape[0]), generator.choice(outside_K, outside_K.shape[0]))

    return measured(_gini(inside_M, outside_K), resampled, seed, resamples)


def label_leakage(
    released_ND: Rows,
    global_ND: Rows,
    prototypes_CD: Rows,
    counts_C: NDArray[np.int64],
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> Leakage:
    """How much nearer the inferred distribution of classes is to the true one than equal shares, in total variation.

    The attacker has a prototype of each class. A class's share is inferred as the share of released rows that are
    nearest to it over that of the global rows. Where the true shares are equal there is nothing to infer.
    """
    rows_ND, anchors_ND, mean_1D = turned(released_ND, global_ND)
    prototypes = unit_rows(prototypes_CD - mean_1D)
    rows_N, anchors_N = (rows_ND @ prototypes.T).argmax(1), (anchors_ND @ prototypes.T).argmax(1)
    true_C = counts_C / counts_C.sum()
    chance = _variation(np.full(len(true_C), 1 / len(true_C)), true_C)

    def gained(which: NDArray[np.int64]) -> float:
        drawn = (np.bincount(rows_N[which], minlength=len(true_C)) + 1) / (
            np.bincount(anchors_N[which], minlength=len(true_C)) + 1
        )
        return chance - _variation(drawn / drawn.sum(), true_C)

    every = np.arange(len(rows_N))
    return measured(gained(every), lambda g: gained(g.choice(every, len(every))), seed, resamples)


def measured(advantage: float, resampled: Callable[[np.random.Generator], float], seed: int, resamples: int) -> Leakage:
    """An attack's advantage with its bootstrap interval; `resampled` attacks samples drawn anew."""
    generator = np.random.default_rng(seed)
    low, high = np.percentile([resampled(generator) for _ in range(resamples)], _PERCENTILES)
    return Leakage(advantage=advantage, low=float(low), high=float(high))


def turned(released_ND: Rows, global_ND: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64], Rows]:
    """Released and global rows in the centred global space, and the mean that was taken from the global ones.

    Released rows get there by the orthogonal map that fits them best (Procrustes).
    """
    mean_1D = global_ND.mean(0, keepdims=True)
    rows, anchors = unit_rows(released_ND - released_ND.mean(0, keepdims=True)), unit_rows(global_ND - mean_1D)
    left, _, right = np.linalg.svd(rows.T @ anchors)
    return rows @ (left @ right), anchors, mean_1D


def _nearest(rows_ND: NDArray[np.float64], candidates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each candidate the cosine with the nearest row, [M]."""
    blocks = [(candidates[start : start + _BLOCK] @ rows_ND.T).max(1) for start in range(0, len(candidates), _BLOCK)]
    return np.concatenate(blocks)


def _gini(inside_M: NDArray[np.float64], outside_K: NDArray[np.float64]) -> float:
    """2 AUC - 1: the chance that a member scores above another sample, less that it scores below."""
    ordered = np.sort(outside_K)
    below = np.searchsorted(ordered, inside_M, side="left")
    above = len(ordered) - np.searchsorted(ordered, inside_M, side="right")
    return float((below - above).mean() / len(ordered))


def _variation(one_C: NDArray[np.float64], other_C: NDArray[np.float64]) -> float:
    return float(np.abs(one_C - other_C).sum() / 2)


def unit_rows(rows: Rows) -> NDArray[np.float64]:
    """Each row over its length."""
    wide = np.asarray(rows, dtype=np.float64)
    unit: NDArray[np.float64] = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    return unit
