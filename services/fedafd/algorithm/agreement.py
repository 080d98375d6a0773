"""Does a client know something that the global model does not? What it adds is compared with what the others add.

Of a client's representation the part along the global one is what the server holds already; the rest is what the client
adds. Honest clients saw the same public samples, so that what they add agrees; of a copy of the global representations,
plain or with something mixed in, nothing is left that agrees with anybody. Compared by medians over the other clients:
a minority that agrees among itself moves none of them.
Shape legend: K clients, N public samples, S of them that are compared, D embedding dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fedafd.algorithm.checks import check_same_shape, check_shape

__all__ = ["FEWEST_CLIENTS", "added", "agreements", "mean_similarity", "near_copies"]

FEWEST_CLIENTS = 5
"""With fewer, what the others do says too little to leave somebody out."""
_DEVIATION_OF_MAD = 1.4826
_DEVIATIONS, _STEP = 4.0, 0.25
"""How much nearer: more deviations than that, and more of the way from the usual similarity to 1 (sites that differ
little among themselves leave little deviation)."""
_ALONE = 2.0
"""So many times as much where agreement says nothing."""
_LEAST_AGREEMENT = 0.5
_CHANCE = 4.0
_AT_ONCE = 64
_SMALLEST_PART = 1e-2
"""A shorter rest is rounding of what travels."""


@torch.no_grad()
def added(reps_SD: Tensor, global_SD: Tensor) -> Tensor:
    """What the rows hold beyond the global ones, [S, D]: unit rows, or zeros where nothing is left but rounding."""
    check_shape("reps_SD", reps_SD, None, None)
    check_same_shape("global_SD", global_SD, "reps_SD", reps_SD)
    along_SD = F.normalize(global_SD.float(), dim=1)
    rest_SD = reps_SD.float() - (reps_SD.float() * along_SD).sum(dim=1, keepdim=True) * along_SD
    rest_SD = torch.where(rest_SD.norm(dim=1, keepdim=True) > _SMALLEST_PART, rest_SD, 0.0)
    if len(rest_SD) > 1:  # what is the same in all rows says nothing about any sample
        rest_SD = rest_SD - rest_SD.mean(dim=0)
    return F.normalize(rest_SD, dim=1)


@torch.no_grad()
def mean_similarity(reps_ND: Tensor, global_ND: Tensor) -> float:
    """Mean cosine of the rows to the global ones, -1 to 1."""
    check_shape("reps_ND", reps_ND, None, None)
    check_same_shape("global_ND", global_ND, "reps_ND", reps_ND)
    return float(F.cosine_similarity(reps_ND.float(), global_ND.float(), dim=1).double().mean())


@torch.no_grad()
def agreements(added_KSD: Tensor) -> Tensor:
    """Of each client the median over the others of the mean cosine of what both add, [K], float64; 0 for one alone."""
    check_shape("added_KSD", added_KSD, None, None, None)
    count, samples, _ = added_KSD.shape
    if count == 1:
        return torch.zeros(1, dtype=torch.float64)
    rows = added_KSD.flatten(1)
    medians: list[Tensor] = []
    # Some at a time: of many clients the pairs are more than fit, and more than `quantile` takes.
    for part in rows.split(_AT_ONCE):
        for cosines_K in (part @ rows.T).double() / samples:
            own = len(medians)
            medians.append(torch.cat([cosines_K[:own], cosines_K[own + 1 :]]).quantile(0.5))
    return torch.stack(medians)


@torch.no_grad()
def near_copies(similarities_K: Tensor, agreements_K: Tensor, *, num_samples: int, dim: int) -> Tensor:
    """Who is much nearer to the global representations than the others are, and adds nothing that agrees: bool [K].

    Both are needed, so that neither an honest site that is unusual nor one that is better than the others is meant: the
    first is farther from the global representations, what the second adds agrees. Where clients are so weak that the
    usual agreement is no more than chance gives, being nearer has to be twice as plain, and is enough. Nobody is meant
    where there are fewer than FEWEST_CLIENTS.
    """
    if len(similarities_K) < FEWEST_CLIENTS:
        return torch.zeros(len(similarities_K), dtype=torch.bool)
    similar_K, agree_K = similarities_K.double(), agreements_K.double()
    usual, agreed = similar_K.quantile(0.5), agree_K.quantile(0.5)
    deviation = _DEVIATION_OF_MAD * (similar_K - usual).abs().quantile(0.5)
    step = torch.maximum(_DEVIATIONS * deviation, _STEP * (1 - usual))
    if float(agreed) * (num_samples * dim) ** 0.5 < _CHANCE:
        return similar_K > usual + _ALONE * step
    return (similar_K > usual + step) & (agree_K < _LEAST_AGREEMENT * agreed)
