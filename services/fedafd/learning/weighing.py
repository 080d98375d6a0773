"""Weighing on bytes, between folding and merging: what each client's state may weigh, once all are there.

A *sheet* is the small part of a state that weights are made of, safetensors: `scores` [N], `count`, `similarity`, and
of a single client `added` [S, D] in float16 (in float32 where an older version made it), S of the public samples. A
*limit* is one number per sample, and `share`, the cap: all that merges need (fedafd.algorithm.weight_cap). Where rows
that agree least are trimmed, a client's sheet has what it adds on all samples, `every` [N, D] in float16, and its
state's `digest`; the limit has the samples on which a state counts for nothing.
Shape legend: K states, N public samples, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor

from fedafd.algorithm.agreement import (
    KnownRows,
    adding_nothing,
    agreements,
    least_agreeing,
    near_copies,
    num_trimmed,
    unit_rest,
)
from fedafd.algorithm.distillation import SimilarityEnsemble, scores_without
from fedafd.algorithm.weight_cap import capped_weights, score_limit, share_cap
from fedafd.domain.config import FederationConfig
from fedafd.domain.contributions import Contribution
from fedafd.domain.kinds import Modality
from fedafd.domain.seeds import derive_seed
from fedafd.learning.ensemble import compared_rows, packed, read_state, state_digest, trimmed_name

__all__ = ["SheetMaker", "Weighed", "score_sheet", "weigh"]

_COMPARED = 128
"""Samples of which what clients add is compared."""


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """Contributions in the order of the sheets, and the limit for the merges of those that are not left out."""

    contributions: tuple[Contribution, ...]
    limit: bytes


class SheetMaker:
    """Makes the sheets of one modality; what all clients' rows are compared with is centred and measured once."""

    def __init__(self, config: FederationConfig, modality: Modality, global_ND: Tensor) -> None:
        """`global_ND` [N, D] on the CPU, centred where the configuration says so."""
        self._known = KnownRows(global_ND)
        self._compared_S = _compared(config, modality, len(global_ND))

    def sheet(self, ensemble: SimilarityEnsemble, digest: bytes | None) -> bytes:
        """Of an ensemble on the CPU. `digest`: its `state_digest`, where rows that agree least are trimmed."""
        reps_ND = ensemble.result_now()
        parts = {"similarity": torch.tensor(self._known.mean_similarity(reps_ND), dtype=torch.float64)}
        if ensemble.count != 1:
            return _packed_sheet(ensemble, parts)
        if digest is None:
            parts["added"] = unit_rest(self._known.rest(reps_ND, self._compared_S)).half()
        else:
            rest_ND = self._known.rest(reps_ND)
            parts["added"] = unit_rest(rest_ND[self._compared_S]).half()
            parts["every"] = unit_rest(rest_ND).half()
            parts["digest"] = torch.frombuffer(bytearray(digest), dtype=torch.uint8)
        return _packed_sheet(ensemble, parts)


def score_sheet(
    config: FederationConfig,
    modality: Modality,
    state: bytes,
    global_reps: Mapping[Modality, NDArray[np.float32]] | None = None,
) -> bytes:
    """The sheet of a state. Without global representations (of a region, from before it was compared with them) it has
    the scores alone."""
    ensemble = read_state(state)
    if global_reps is None:
        return _packed_sheet(ensemble, {})
    maker = SheetMaker(config, modality, compared_rows(config, global_reps[modality]))
    return maker.sheet(ensemble, state_digest(state) if config.distillation.trimmed_share else None)


def _packed_sheet(ensemble: SimilarityEnsemble, parts: Mapping[str, Tensor]) -> bytes:
    sheet = {"scores": ensemble.scores(), "count": torch.tensor(ensemble.count), **parts}
    return packed(sheet)


def weigh(config: FederationConfig, sheets: Sequence[bytes]) -> Weighed:
    """Weigh all states of a modality, whose sheets are given in the cohort's order."""
    read = [load(sheet) for sheet in sheets]
    single = [position for position, sheet in enumerate(read) if "added" in sheet]
    similar = {position: float(sheet["similarity"]) for position, sheet in enumerate(read) if "similarity" in sheet}
    similar_K = torch.tensor([similar[position] for position in single], dtype=torch.float64)
    agree_K, copies = torch.empty(0), set[int]()
    if len(single) > 1:
        added_KSD = [read[position]["added"] for position in single]
        agree_K = agreements(added_KSD, ~adding_nothing(similar_K))
        if config.distillation.leave_out_copies:
            samples, dim = added_KSD[0].shape
            copied_K = near_copies(similar_K, agree_K, num_samples=samples, dim=dim)
            copies = {position for position, is_copy in zip(single, copied_K.tolist(), strict=True) if is_copy}
    if config.distillation.leave_out_copies:
        # Also of several clients together, as a region sends them: what adds nothing is no loss, whoever sends it.
        nothing_K = adding_nothing(torch.tensor(list(similar.values()), dtype=torch.float64))
        nothing = {position for position, is_nothing in zip(similar, nothing_K.tolist(), strict=True) if is_nothing}
        copies |= nothing if len(copies | nothing) < len(read) else set()
    kept = [position for position in range(len(read)) if position not in copies]
    trimmed = _trimmed(config, {position: read[position] for position in kept if "every" in read[position]})
    counts = [int(read[position]["count"]) for position in kept]
    cap = config.distillation.weight_cap or 1.0
    num_left = sum(counts) - (int(torch.stack(list(trimmed.values())).sum(dim=0).max()) if trimmed else 0)
    share = max(share_cap(cap, sum(counts)), 1 / num_left)
    caps_K = torch.tensor([min(1.0, share * count) for count in counts], dtype=torch.float64)
    scores_KN = torch.stack([_scores(read[position], trimmed.get(position)) for position in kept])
    limit_N = score_limit(scores_KN, caps_K)
    weights = dict(zip(kept, capped_weights(scores_KN, caps_K, limit_N).mean(dim=1).tolist(), strict=True))
    agree = dict(zip(single, agree_K.tolist(), strict=False))
    limit = {"limit": limit_N, "share": torch.tensor(share, dtype=torch.float64)}
    for position, samples_N in trimmed.items():
        limit[trimmed_name(_digest(read[position]))] = samples_N
    return Weighed(
        contributions=tuple(
            Contribution(
                weight=weights.get(position, 0.0),
                similarity=similar.get(position),
                agreement=agree.get(position),
                left_out=position in copies,
            )
            for position in range(len(read))
        ),
        limit=save(limit),
    )


def _trimmed(config: FederationConfig, sheets: Mapping[int, Mapping[str, Tensor]]) -> dict[int, Tensor]:
    """By position the samples on which a client counts for nothing, bool [N]; empty where none is trimmed.

    Equal states are one to a limit: what one of them is trimmed on, all of them are.
    """
    count = num_trimmed(config.distillation.trimmed_share, len(sheets))
    if not count:
        return {}
    meant_KN = least_agreeing(torch.stack([sheet["every"] for sheet in sheets.values()]), count)
    by_state: dict[bytes, Tensor] = {}
    for sheet, samples_N in zip(sheets.values(), meant_KN, strict=True):
        by_state[_digest(sheet)] = by_state.get(_digest(sheet), torch.zeros_like(samples_N)) | samples_N
    return {position: by_state[_digest(sheet)] for position, sheet in sheets.items()}


def _digest(sheet: Mapping[str, Tensor]) -> bytes:
    return bytes(sheet["digest"].tolist())


def _scores(sheet: Mapping[str, Tensor], trimmed_N: Tensor | None) -> Tensor:
    return sheet["scores"] if trimmed_N is None else scores_without(sheet["scores"], trimmed_N)


def _compared(config: FederationConfig, modality: Modality, num_samples: int) -> Tensor:
    """The same samples for every client, in ascending order."""
    rng = torch.Generator().manual_seed(derive_seed(config.seed, modality.value, "agreement"))
    return torch.randperm(num_samples, generator=rng)[:_COMPARED].sort().values
