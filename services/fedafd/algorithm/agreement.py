"""Does a client know something that the global model does not? What it adds is compared with what the others add.

Of a client's representation the part along the global one is what the server holds already; the rest is what the client
adds. Honest clients saw the same public samples, so that what they add agrees; of a copy of the global representations,
plain or with something mixed in, nothing is left that agrees with anybody. Compared by medians over the other clients:
a minority that agrees among itself moves none of them.
Shape legend: K clients, N public samples, S of them that are compared, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fedafd.algorithm.checks import InvalidTensorError, check_same_shape, check_shape

__all__ = [
    "FEWEST_CLIENTS",
    "KnownRows",
    "added",
    "adding_nothing",
    "agreements",
    "least_agreeing",
    "mean_similarity",
    "near_copies",
    "num_trimmed",
    "unit_rest",
]

FEWEST_CLIENTS = 5
"""With fewer, what the others do says too little to leave somebody out."""
_DEVIATION_OF_MAD = 1.4826
_DEVIATIONS, _STEP = 4.0, 0.25
"""How much nearer: more deviations than that, and more of the way from the usual similarity to 1 (sites that differ
little among themselves leave little deviation). Deviations are of those below the median: copies are above it."""
_ALONE = 2.0
"""So many times as much where agreement says nothing."""
_LEAST_AGREEMENT = 0.5
_NOTHING_ADDED = 0.999
"""From this mean cosine on, what is left of the rows is rounding of what travels, int8 included, and what centring them
once more moves (up to 0.0004 for 300 samples)."""
_AGREEING, _NOTHING_AGREES = 4.0, 3.0
"""In standard deviations of the agreement of rows that have nothing to do with each other: the usual agreement is more
than chance from the first on; what a client adds is less than the second where nothing of it agrees."""
_AT_ONCE = 1024
"""Clients whose cosines to all are in memory."""
_NUMBERS_AT_ONCE = 1 << 20
"""Of all clients' rows, in float32."""
_COSINES_AT_ONCE = 1 << 24
_ROUNDING = 1e-9
"""0.3 of 10 clients are 3."""
_SMALLEST_PART = 1e-2
"""A shorter rest is rounding of what travels."""
_SMALLEST_LENGTH = 1e-8
"""Shorter rows are divided by it."""


class KnownRows:
    """The global rows [N, D] of public samples, measured once for all clients that are compared with them."""

    @torch.no_grad()
    def __init__(self, global_ND: Tensor) -> None:
        """Raises InvalidTensorError for anything else than rows of numbers."""
        check_shape("global_ND", global_ND, None, None)
        self._unit_ND = _unit(global_ND.float())

    @torch.no_grad()
    def mean_similarity(self, reps_ND: Tensor) -> float:
        """Mean cosine of a client's rows [N, D] to these, -1 to 1."""
        check_same_shape("reps_ND", reps_ND, "the global rows", self._unit_ND)
        return float(_unit(reps_ND.float()).mul_(self._unit_ND).sum(dim=1).double().mean())

    @torch.no_grad()
    def rest(self, reps_ND: Tensor, samples_S: Tensor | None = None) -> Tensor:
        """A client's rows without their part along these, [N, D]; zeros where nothing is left but rounding.

        `samples_S`: their positions, if only some are wanted, [S, D].
        """
        check_shape("reps_ND", reps_ND, None, None)
        check_same_shape("reps_ND", reps_ND, "the global rows", self._unit_ND)
        rows_ND, along_ND = reps_ND.float(), self._unit_ND
        if samples_S is not None:
            rows_ND, along_ND = rows_ND[samples_S], along_ND[samples_S]
        rest_ND = rows_ND * along_ND  # one piece of memory for all steps, of which each is as quick as its bytes
        torch.mul(along_ND, rest_ND.sum(dim=1, keepdim=True), out=rest_ND)
        torch.sub(rows_ND, rest_ND, out=rest_ND)
        longer_N1 = rest_ND.norm(dim=1, keepdim=True) > _SMALLEST_PART
        return rest_ND.masked_fill_(~longer_N1, 0.0)


def _unit(rows_ND: Tensor) -> Tensor:
    unit_ND: Tensor = rows_ND / rows_ND.norm(dim=1, keepdim=True).clamp_min(_SMALLEST_LENGTH)
    return unit_ND


@torch.no_grad()
def added(reps_SD: Tensor, global_SD: Tensor) -> Tensor:
    """What the rows hold beyond the global ones, [S, D]: unit rows, or zeros where nothing is left but rounding."""
    return unit_rest(KnownRows(global_SD).rest(reps_SD))


@torch.no_grad()
def unit_rest(rest_SD: Tensor) -> Tensor:
    """`added` of rows that leave this rest beside the global ones (`KnownRows.rest`), [S, D]."""
    check_shape("rest_SD", rest_SD, None, None)
    if len(rest_SD) > 1:  # what is the same in all rows says nothing about any sample
        rest_SD = rest_SD - rest_SD.mean(dim=0)
    return F.normalize(rest_SD, dim=1)


@torch.no_grad()
def mean_similarity(reps_ND: Tensor, global_ND: Tensor) -> float:
    """Mean cosine of the rows to the global ones, -1 to 1."""
    return KnownRows(global_ND).mean_similarity(reps_ND)


def adding_nothing(similarities_K: Tensor) -> Tensor:
    """Who sends the global rows up to rounding, by the mean cosine of its rows to them: bool [K]."""
    return similarities_K.double() >= _NOTHING_ADDED


@torch.no_grad()
def agreements(added_KSD: Tensor | Sequence[Tensor], among_K: Tensor | None = None) -> Tensor:
    """Of each client the median over the others of the mean cosine of what both add, [K], float64; 0 with no others.

    `added_KSD`: of each client [S, D] on the CPU, in one piece or apart, in float16 or float32.
    `among_K`, bool [K]: of the others those alone; rows of zeros agree with nobody, and would lower all medians.
    """
    check_shape("added_KSD", added_KSD[0], None, None)
    for added_SD in added_KSD:
        check_shape("added_KSD", added_SD, *added_KSD[0].shape)
    numbers_K = torch.arange(len(added_KSD))
    counted_K = torch.ones_like(numbers_K, dtype=torch.bool) if among_K is None else among_K
    # Some at a time: of many clients the pairs are more than fit.
    medians = [
        _medians(_mean_cosines(added_KSD, own_B), counted_K & (numbers_K != own_B[:, None]))
        for own_B in numbers_K.split(_AT_ONCE)
    ]
    return torch.cat(medians)


def _mean_cosines(added_KSD: Tensor | Sequence[Tensor], own_B: Tensor) -> Tensor:
    """Of the clients `own_B` with all, [B, K], float64. Some samples at a time, which stay in the cache."""
    samples, dim = added_KSD[0].shape
    cosines_BK = torch.zeros(len(own_B), len(added_KSD), dtype=torch.float64)
    at_once = max(1, _NUMBERS_AT_ONCE // (len(added_KSD) * dim))
    for first in range(0, samples, at_once):
        rows = torch.stack([added_SD[first : first + at_once].float() for added_SD in added_KSD]).flatten(1)
        cosines_BK += rows[own_B[0] : own_B[-1] + 1] @ rows.T
    return cosines_BK / samples


def _medians(values_BK: Tensor, counted_BK: Tensor) -> Tensor:
    """Of each row the median of the values that are counted, [B]; 0 where none is."""
    sorted_BK = values_BK.masked_fill(~counted_BK, torch.inf).sort(dim=1).values
    last_B1 = counted_BK.sum(dim=1, keepdim=True) - 1
    lower_B1, upper_B1 = last_B1.clamp(min=0) // 2, (last_B1 + 1).clamp(min=0) // 2
    middle_B1 = sorted_BK.gather(1, lower_B1).lerp(sorted_BK.gather(1, upper_B1), 0.5)
    return middle_B1.where(last_B1 >= 0, 0.0).squeeze(1)


@torch.no_grad()
def near_copies(similarities_K: Tensor, agreements_K: Tensor, *, num_samples: int, dim: int) -> Tensor:
    """Who adds nothing to the ensemble but the weight of the global representations: bool [K].

    Rows that are the global ones up to rounding add nothing, whoever sends them, so that to leave them out loses
    nothing; unless nobody sends others. Of the rest those who are much nearer to the global representations than the
    others are, and add nothing that agrees. Both are needed, so that neither an honest site that is unusual nor one
    that is better than the others is meant: the first is farther from the global representations, what the second adds
    agrees. Where clients are so weak that the usual agreement is no more than chance gives, being nearer has to be
    twice as plain, and is enough. Of fewer than FEWEST_CLIENTS that add something nobody is meant.
    """
    similar_K, agree_K = similarities_K.double(), agreements_K.double()
    same_K = adding_nothing(similar_K)
    if bool(same_K.all()):
        return torch.zeros_like(same_K)
    if int((~same_K).sum()) < FEWEST_CLIENTS:
        return same_K
    usual, agreed = similar_K[~same_K].quantile(0.5), agree_K[~same_K].quantile(0.5)
    below = similar_K[~same_K & (similar_K <= usual)]
    deviation = _DEVIATION_OF_MAD * (usual - below).quantile(0.5)
    step = torch.maximum(_DEVIATIONS * deviation, _STEP * (1 - usual))
    chance = (num_samples * dim) ** -0.5
    if float(agreed) < _AGREEING * chance:
        near_K = similar_K > usual + _ALONE * step
    else:
        least = min(_NOTHING_AGREES * chance, _LEAST_AGREEMENT * float(agreed))
        near_K = (similar_K > usual + step) & (agree_K < least)
    return same_K | near_K


def num_trimmed(share: float, num_clients: int) -> int:
    """`share` of `num_clients` as a whole number, rounded down; 0 where there are fewer than FEWEST_CLIENTS.

    Raises InvalidTensorError for a share outside 0 .. 0.5: half of the clients cannot be told from the other half.
    """
    if not 0 <= share < 0.5:
        raise InvalidTensorError(f"share: expected a number from 0 to below 0.5, got {share}")
    return 0 if num_clients < FEWEST_CLIENTS else int(share * num_clients + _ROUNDING)


@torch.no_grad()
def least_agreeing(added_KND: Tensor, count: int) -> Tensor:
    """On each sample the `count` clients whose rows agree least with the others' rows of that sample: bool [K, N].

    A client's agreement on a sample is the median over the others of the cosine of what both add: a minority that
    agrees among itself does not raise its own median. Of equal ones the last clients are meant. K^2 N D products.
    """
    check_shape("added_KND", added_KND, None, None, None)
    num_clients, num_samples, _ = added_KND.shape
    if not 0 <= count < num_clients:
        raise InvalidTensorError(f"count: expected 0 to {num_clients - 1} of {num_clients} clients, got {count}")
    meant_KN = torch.zeros(num_clients, num_samples, dtype=torch.bool)
    if count == 0:
        return meant_KN
    own_KK = torch.eye(num_clients, dtype=torch.bool)
    at_once = max(1, _COSINES_AT_ONCE // num_clients**2)
    for first in range(0, num_samples, at_once):
        rows_BKD = added_KND[:, first : first + at_once].float().transpose(0, 1)
        cosines_BKK = rows_BKD @ rows_BKD.mT
        others_BKJ = cosines_BKK[:, ~own_KK].view(len(rows_BKD), num_clients, num_clients - 1)
        order_BK = others_BKJ.quantile(0.5, dim=2).sort(dim=1, descending=True, stable=True).indices
        meant_KN[order_BK[:, -count:].T, torch.arange(first, first + len(rows_BKD))] = True
    return meant_KN
