"""A cap on what one client weighs in the ensemble, per public sample, as one number per sample: the limit.

SED weighs by the similarity to the global representations, which every client holds: who copies them would weigh most.
With scores s_k and caps c_k the capped weights are w_k = min(c_k, exp(s_k - t)), with the t for which they sum to 1:
who would exceed the cap has it, and the others share what is left by their scores. So a score of min(s_k, t + log c_k)
in the plain softmax gives them, and t is all that a merge has to know of the other clients, however many they are.
Shape legend: K clients holding the modality, N public samples, B samples at once.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fedafd.algorithm.checks import InvalidTensorError, check_finite, check_shape

__all__ = ["capped_scores", "capped_weights", "score_limit", "share_cap"]

Cap = float | Literal["auto", "strict"]
"""The most that a client may weigh, 0 to 1; or twice an equal share (auto), or 7/6 of one (strict)."""
_EQUAL_SHARES = {"auto": 2.0, "strict": 7 / 6}
"""With 7/6, clients that are at most 30 % of all weigh at most 35 % together, whatever they send."""

_NUMBERS_AT_ONCE = 1 << 22
_SMALLEST_REST = 1e-9
"""Less than that is rounding of shares that sum to 1."""


def share_cap(cap: Cap, num_clients: int) -> float:
    """The most that one of `num_clients` may weigh, 0 to 1: never below an equal share."""
    if num_clients < 1:
        raise InvalidTensorError(f"num_clients: expected 1 or more, got {num_clients}")
    if not isinstance(cap, str) and not 0 < cap <= 1:
        raise InvalidTensorError(f"cap: expected a number above 0 to 1, got {cap}")
    most = _EQUAL_SHARES[cap] / num_clients if isinstance(cap, str) else cap
    return min(1.0, max(most, 1 / num_clients))


@torch.no_grad()
def score_limit(scores_KN: Tensor, caps_K: Tensor) -> Tensor:
    """t of each sample, [N], float64: where nobody exceeds its cap, the logarithm of the sum of exp(scores).

    `caps_K`: the most that each may weigh; their sum must be 1 or more. Raises InvalidTensorError for another shape,
    NaN and infinity.
    """
    check_shape("scores_KN", scores_KN, None, None)
    check_shape("caps_K", caps_K, len(scores_KN))
    check_finite("scores_KN", scores_KN)
    log_caps_K = caps_K.double().log()
    check_finite("log of caps_K", log_caps_K)
    if float(caps_K.double().sum()) < 1 - _SMALLEST_REST:
        raise InvalidTensorError(f"caps_K: sum to {float(caps_K.double().sum())}; weights of sum 1 need 1 or more")
    at_once = max(1, _NUMBERS_AT_ONCE // len(scores_KN))
    limit_N = torch.cat([part_KB.double().logsumexp(dim=0) for part_KB in scores_KN.split(at_once, dim=1)])
    most_N = limit_N + _rounding(limit_N)
    exceeding_N = torch.cat(
        [
            (part_KB.double() - log_caps_K[:, None] > most_B).any(dim=0)
            for part_KB, most_B in zip(scores_KN.split(at_once, dim=1), most_N.split(at_once), strict=True)
        ]
    )
    if bool(exceeding_N.any()):
        parts = scores_KN[:, exceeding_N].split(at_once, dim=1)
        limit_N[exceeding_N] = torch.cat([_limit_of(part_KB.double(), log_caps_K) for part_KB in parts])
    return limit_N


def capped_scores(scores_N: Tensor, limit_N: Tensor, cap: float) -> Tensor:
    """Scores of a client that may weigh `cap`; bit for bit as they are where it does not weigh more."""
    most_N = limit_N + torch.tensor(cap, dtype=torch.float64, device=limit_N.device).log()
    return torch.where(scores_N.double() <= most_N, scores_N, most_N.to(scores_N.dtype))


@torch.no_grad()
def capped_weights(scores_KN: Tensor, caps_K: Tensor, limit_N: Tensor | None = None) -> Tensor:
    """Weight of each client on each sample, [K, N], float64; columns sum to 1 and no row exceeds its cap.

    `limit_N`: the `score_limit` of both, where it is known.
    """
    excess_KN = scores_KN.double() - (score_limit(scores_KN, caps_K) if limit_N is None else limit_N)
    return excess_KN.exp().minimum(caps_K.double()[:, None])


def _limit_of(scores_KB: Tensor, log_caps_K: Tensor) -> Tensor:
    """By how many are capped, the first number for which nobody else exceeds its cap: who is capped is first in order.

    With j capped, the rest has to sum to what they leave: exp(t) = sum of the others' exp(score) / (1 - caps of the j).
    """
    excess_KB, order_KB = (scores_KB - log_caps_K[:, None]).sort(dim=0, descending=True, stable=True)
    sorted_KB = scores_KB.gather(0, order_KB)
    caps_KB = log_caps_K.exp()[:, None].expand_as(scores_KB).gather(0, order_KB)
    left_KB = 1 - (caps_KB.cumsum(dim=0) - caps_KB)
    others_KB = sorted_KB.flip(0).logcumsumexp(dim=0).flip(0)
    limit_KB = others_KB - left_KB.clamp(min=_SMALLEST_REST).log()
    fits_KB = (excess_KB <= limit_KB + _rounding(limit_KB)) & (left_KB > _SMALLEST_REST)
    first_B = fits_KB.to(torch.uint8).argmax(dim=0)
    fitting_B = limit_KB.gather(0, first_B[None])[0]
    # Caps of sum 1: all have theirs.
    return torch.where(fits_KB.any(dim=0), fitting_B, excess_KB[-1])


def _rounding(limit: Tensor) -> Tensor:
    return _SMALLEST_REST * (1 + limit.abs())
