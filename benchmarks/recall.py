"""Recall of 5,000 images x 25,000 captions, against a loop over queries as evaluation scripts have it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.measure import Clock, Ratio, Report, Times, interleaved
from fedafd.algorithm.metrics import recall_at_k

_DIM, _CAPTIONS, _PART = 256, 5, 20
_EASY, _HARD = 1.5, 4.0
"""Norms of the noise that makes captions out of unit images."""


def run(*, tiny: bool, repeats: int, clock: Clock) -> list[Report]:
    """Captions that find their images, and such that often do not; the loop does every 20th query, 20 times as long."""
    images = 100 if tiny else 5_000
    return [_measured(images, noise, repeats, clock, target) for noise, target in ((_EASY, 50.0), (_HARD, None))]


def _measured(images: int, noise: float, repeats: int, clock: Clock, target: float | None) -> Report:
    generator = torch.Generator().manual_seed(0)
    image_reps = F.normalize(torch.randn(images, _DIM, generator=generator), dim=1)
    noise_TD = noise * torch.randn(images * _CAPTIONS, _DIM, generator=generator) / _DIM**0.5
    text_reps = F.normalize(image_reps.repeat_interleave(_CAPTIONS, 0) + noise_TD, dim=1)
    owner = torch.arange(images).repeat_interleave(_CAPTIONS)
    image_ND, text_ND = image_reps.numpy(), text_reps.numpy()
    some = min(images, 500)
    fast = recall_at_k(image_reps[:some], text_reps[: some * _CAPTIONS], owner[: some * _CAPTIONS])
    slow = recall_loop(image_ND[:some], text_ND[: some * _CAPTIONS], 1)
    assert all(math.isclose(fast[name], value, abs_tol=1e-9) for name, value in slow.items()), (fast, slow)
    times = interleaved(
        {
            "both directions at once": lambda: recall_at_k(image_reps, text_reps, owner),
            "loop over queries": lambda: recall_loop(image_ND, text_ND, _PART),
        },
        repeats,
    )
    part = times["loop over queries"]
    times["loop over queries"] = Times([_PART * s for s in part.wall], [_PART * s for s in part.cpu])
    ratio = times["loop over queries"].median(clock) / times["both directions at once"].median(clock)
    found = recall_at_k(image_reps, text_reps, owner)
    return Report(
        "recall",
        f"{images:,} images x {len(owner):,} captions, R@1 {found['i2t_r1']:.0f} and {found['t2i_r1']:.0f} %",
        times,
        [Ratio("times faster than the loop", ratio, at_least=target)],
    )


def recall_loop(image_ND: Any, text_ND: Any, part: int) -> dict[str, float]:
    """For each query: all similarities, a full sort, a search for the right ones. Every `part`-th query is done."""
    ranks_i, ranks_t = [], []
    for i in range(0, len(image_ND), part):
        order = np.argsort(image_ND[i] @ text_ND.T)[::-1]
        own = range(_CAPTIONS * i, _CAPTIONS * (i + 1))
        ranks_i.append(min(np.where(order == j)[0][0] for j in own))
    for j in range(0, len(text_ND), part):
        order = np.argsort(text_ND[j] @ image_ND.T)[::-1]
        ranks_t.append(np.where(order == j // _CAPTIONS)[0][0])
    found = {}
    for name, ranks in (("i2t", ranks_i), ("t2i", ranks_t)):
        for k in (1, 5, 10):
            found[f"{name}_r{k}"] = 100.0 * float(np.mean(np.array(ranks) < k))
    return found
