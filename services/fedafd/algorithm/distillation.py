"""Similarity-guided ensemble distillation (SED): weigh the clients' representations, fold them, distil.

Source: FedAFD, arXiv 2603.04890. The ensemble is an associative reduction by the online softmax: clients are folded in
as they arrive and states merge in any tree, with memory for N x D values whatever K is. The N x N similarities exist
one block at a time only.
Shape legend: K clients holding the modality, N public samples, D embedding dimension, B samples of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from fedafd.algorithm.checks import (
    InvalidTensorError,
    check_finite,
    check_positive,
    check_same_shape,
    check_shape,
    compute_dtype,
)
from fedafd.algorithm.flash_scores import fits
from fedafd.algorithm.similarity import Precision, fold_scores, longest_row, similarity_scores
from fedafd.algorithm.weight_cap import capped_scores
from fedafd.domain.kinds import Modality

__all__ = [
    "MeanEnsemble",
    "SimilarityEnsemble",
    "distillation_loss",
    "distillation_targets",
    "scores_without",
    "similarity_scores",
    "similarity_weights",
]


@torch.no_grad()
def similarity_weights(reps_KND: Tensor, global_ND: Tensor, temperature: float = 1.0) -> Tensor:
    """Weight of each client on each public sample, [K, N]; each column sums to 1.

    Raises InvalidTensorError as similarity_scores does.
    """
    check_shape("global_ND", global_ND, None, None)
    check_shape("reps_KND", reps_KND, None, *global_ND.shape)
    return torch.stack([similarity_scores(reps_ND, global_ND, temperature) for reps_ND in reps_KND]).softmax(dim=0)


_FAR_BELOW = 1e4
"""Of a score: exp of it is 0 beside any other. Finite, so that states of it alone still merge."""


def scores_without(scores_N: Tensor, samples_N: Tensor) -> Tensor:
    """`scores_N` [N], so low that they weigh nothing beside others on the samples that are true in `samples_N` [N]."""
    return scores_N - torch.where(samples_N.to(scores_N.device), _FAR_BELOW, 0.0)


class SimilarityEnsemble:
    """The running ensemble of one modality: sum over clients of softmax_k(score) * representation.

    State per public sample: the running maximum of the scores m [N], the normaliser l [N] and the weighted sum
    A [N, D], both relative to m. The result is A / l, whatever the order of arrivals and merges, to float error.
    """

    def __init__(
        self, global_reps: Tensor, temperature: float = 1.0, *, precision: Precision | Literal["auto"] = "float32"
    ) -> None:
        """`global_reps` [N, D]: what the scores compare with, in the public set's order. `temperature` is tau.

        `precision` of the similarities, as in fedafd.algorithm.similarity; `auto` rounds where a flash attention kernel
        takes them (fedafd.algorithm.flash_scores has the bound), and nowhere else. All else is float32 at least.
        """
        check_positive("temperature", temperature)
        check_shape("global_reps", global_reps, None, None)
        check_finite("global_reps", global_reps)
        self._global_ND: Tensor | None = global_reps.to(compute_dtype(global_reps))
        self._longest: Tensor | None = None
        self._start(self._global_ND)
        self.temperature = float(temperature)
        rounds = precision == "bfloat16" or (precision == "auto" and fits(self._global_ND))
        self._precision: Precision = "bfloat16" if rounds else "float32"

    def anew(self) -> Self:
        """An empty one that compares with the same global representations, which are not checked and measured again."""
        if self._global_ND is not None and self._longest is None:
            self._longest = longest_row(self._global_ND)
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        other._start(self._sum_ND)
        return other

    @property
    def count(self) -> int:
        """Number of clients folded in, here and in all that was merged."""
        return self._count

    @property
    def device(self) -> torch.device:
        """Where it is kept, and clients are to be."""
        return self._max_N.device

    def add(self, reps: Tensor, *, weight: float = 1.0, copy: bool = True) -> None:
        """Fold in one client's representations [N, D], same order. Refuses other shapes, NaN and infinity.

        `weight`, above 0, multiplies the client's share before shares are normalised: below 1 for stale ones.
        `copy`: False where the tensor is the ensemble's own from now on, which it writes to.
        """
        check_shape("reps", reps, *self._sum_ND.shape)
        check_positive("weight", weight)
        scores_N = self._scores(reps) + math.log(weight)
        self._fold(scores_N, torch.ones_like(self._normaliser_N), reps, copy=copy)
        self._count += 1

    def merge(self, other: SimilarityEnsemble) -> None:
        """Fold in another ensemble of the same public set and temperature; it stays as it is."""
        check_same_shape("other", other._sum_ND, "this ensemble", self._sum_ND)
        if other.temperature != self.temperature:
            raise InvalidTensorError(
                f"merge: the other ensemble has temperature {other.temperature}, this one {self.temperature}"
            )
        if other._count:
            self._fold(other._max_N, other._normaliser_N, other._sum_ND)
            self._count += other._count

    def cap(self, limit_N: Tensor, share: float) -> None:
        """Let the clients in it weigh at most `share` in all, with the limit [N] of fedafd.algorithm.weight_cap.

        Of a state that was capped already, and merged since, nothing more is taken: its parts sum to less.
        """
        check_shape("limit_N", limit_N, len(self._max_N))
        check_finite("limit_N", limit_N)
        check_positive("share", share)
        if self._count:
            spread_N = self._normaliser_N.log()
            score_N = self._max_N + spread_N
            capped_N = capped_scores(score_N, limit_N.to(score_N.device), share)
            self._max_N.copy_(torch.where(capped_N == score_N, self._max_N, capped_N - spread_N))

    def leave_out(self, samples_N: Tensor) -> None:
        """Weigh nothing beside others on the samples that are true in `samples_N` [N], bool."""
        if samples_N.dtype is not torch.bool or samples_N.shape != self._max_N.shape:
            raise InvalidTensorError(
                f"samples_N: expected bool {list(self._max_N.shape)}, got {samples_N.dtype} {list(samples_N.shape)}"
            )
        if self._count:
            self._max_N.copy_(scores_without(self._max_N, samples_N))

    def scores(self) -> Tensor:
        """What it weighs against other ensembles before shares are normalised, [N]: log of its sum of exp(score)."""
        return self._max_N + self._normaliser_N.log()

    def result(self, *, normalise: bool = False) -> Tensor:
        """M_agg [N, D], a new tensor; `normalise`: unit rows. Raises InvalidTensorError with no client in it."""
        if not self._count:
            raise InvalidTensorError("result: no representations were added; a modality without clients is left out")
        result_ND = self._sum_ND / self._normaliser_N[:, None]
        return F.normalize(result_ND, dim=1) if normalise else result_ND

    def result_now(self) -> Tensor:
        """The result; where a single client is in it, without a copy: good until something is folded in."""
        if self._count == 1 and bool((self._normaliser_N == 1).all()):
            return self._sum_ND
        return self.result()

    def state(self) -> dict[str, Tensor]:
        """All that there is to keep, as tensors: running_max [N], normaliser [N], weighted_sum [N, D], and the scalars
        count (int64) and temperature (float64; infinite for the uniform mean). Copies: later folds leave them be."""
        return {name: part.clone(memory_format=torch.contiguous_format) for name, part in self.state_now().items()}

    def state_now(self) -> dict[str, Tensor]:
        """The state without a copy of it: good until something is folded in."""
        return {
            "running_max": self._max_N,
            "normaliser": self._normaliser_N,
            "weighted_sum": self._sum_ND,
            "count": torch.tensor(self._count, dtype=torch.int64),
            "temperature": torch.tensor(self.temperature, dtype=torch.float64),
        }

    @classmethod
    def from_state(
        cls, state: Mapping[str, Tensor], global_reps: Tensor | None = None, *, copy: bool = True
    ) -> SimilarityEnsemble:
        """The ensemble of a state. Without `global_reps` it can merge and give its result, but not add.

        `copy`: False where the tensors are the ensemble's own from now on, which it writes to.
        Gives a MeanEnsemble for the state of one. Raises InvalidTensorError for a state that is incomplete or whose
        shapes or values do not fit.
        """
        _check_state(state)
        temperature = float(state["temperature"])
        ensemble = object.__new__(MeanEnsemble if temperature == float("inf") else SimilarityEnsemble)
        sum_ND = state["weighted_sum"]
        ensemble.temperature = temperature
        ensemble._precision = "float32"
        ensemble._max_N = state["running_max"].to(sum_ND, copy=copy)
        ensemble._normaliser_N = state["normaliser"].to(sum_ND, copy=copy)
        ensemble._sum_ND = sum_ND.detach().clone(memory_format=torch.contiguous_format) if copy else sum_ND
        ensemble._count = int(state["count"])
        ensemble._global_ND = ensemble._longest = None
        if global_reps is not None:
            check_shape("global_reps", global_reps, *sum_ND.shape)
            check_finite("global_reps", global_reps)
            ensemble._global_ND = global_reps.to(sum_ND.dtype)
        return ensemble

    def _start(self, like_ND: Tensor) -> None:
        """The empty state, with the shape, dtype and device of `like_ND`."""
        self._count = 0
        self._max_N: Tensor = like_ND.new_full((len(like_ND),), -torch.inf)
        self._normaliser_N: Tensor = like_ND.new_zeros(len(like_ND))
        # One number that stands for all: the first fold puts rows in its place.
        self._sum_ND: Tensor = like_ND.new_zeros(()).expand(like_ND.shape)

    def _scores(self, reps_ND: Tensor) -> Tensor:
        """[N]. Refuses NaN and infinity."""
        if self._global_ND is None:
            raise InvalidTensorError("add: this ensemble was read from a state without global_reps; it can only merge")
        return fold_scores(reps_ND, self._global_ND, self.temperature, self._precision, self._longest)

    @torch.no_grad()
    def _fold(self, max_N: Tensor, normaliser_N: Tensor, sum_ND: Tensor, *, copy: bool = True) -> None:
        """Online softmax: bring both sides to the larger maximum, then add. In place.

        What the first brings is taken as it is, which gives the same bits: its factor is 1, and 0 is added.
        """
        if not self._count:
            self._max_N = max_N.clone()
            self._normaliser_N = normaliser_N + 0.0
            own_ND = sum_ND.to(self._sum_ND)
            self._sum_ND = own_ND + 0.0 if copy else own_ND.add_(0.0)
            return
        new_max_N = torch.maximum(self._max_N, max_N)
        kept_N = torch.exp(self._max_N - new_max_N)
        added_N = torch.exp(max_N - new_max_N)
        self._normaliser_N.mul_(kept_N).addcmul_(normaliser_N, added_N)
        self._sum_ND.mul_(kept_N[:, None]).addcmul_(sum_ND.to(self._sum_ND.dtype), added_N[:, None])
        self._max_N = new_max_N


class MeanEnsemble(SimilarityEnsemble):
    """The uniform mean of the clients, in the same state: the limit of an infinite temperature, all scores 0."""

    def __init__(self, global_reps: Tensor) -> None:
        """`global_reps` [N, D] gives the shape and the device only."""
        super().__init__(global_reps)
        self.temperature = float("inf")

    def _scores(self, reps_ND: Tensor) -> Tensor:
        check_finite("reps", reps_ND)
        return self._normaliser_N.new_zeros(len(reps_ND))


def distillation_targets(
    aggregate_ND: Tensor, global_ND: Tensor, *, self_share: float = 0.0, normalise: bool = False
) -> Tensor:
    """What is distilled, [N, D]: the ensemble with a share of the global model's own representations; 0 is the paper.

    An ensemble that knows less than its student forgets part of what it knows; its own share holds on to that.
    `normalise`: unit rows. Both tensors live in the same, centred or plain, space. Raises InvalidTensorError for other
    shapes, and a share outside 0 .. 1.
    """
    check_shape("aggregate_ND", aggregate_ND, None, None)
    check_same_shape("global_ND", global_ND, "aggregate_ND", aggregate_ND)
    if not 0 <= self_share <= 1:
        raise InvalidTensorError(f"self_share: expected 0 .. 1, got {self_share}")
    mixed_ND = aggregate_ND.lerp(global_ND.to(aggregate_ND), self_share)
    return F.normalize(mixed_ND, dim=1) if normalise else mixed_ND


def distillation_loss(
    features: Mapping[Modality, Tensor], aggregates: Mapping[Modality, Tensor], *, weight: float = 0.4
) -> Tensor:
    """L_kd = weight * sum over modalities of MSE(feature, aggregate), each [B, D]; `weight` is beta.

    The modalities of `aggregates` count: one that no client delivered is left out of it. Its values get no gradient.
    """
    if not aggregates:
        raise InvalidTensorError("aggregates: at least one modality is needed")
    terms = []
    for modality, target_BD in aggregates.items():
        if modality not in features:
            raise InvalidTensorError(f"features: the modality {modality.value} is missing")
        check_shape(f"features[{modality.value}]", features[modality], None, None)
        check_same_shape(f"aggregates[{modality.value}]", target_BD, "its features", features[modality])
        terms.append(F.mse_loss(features[modality], target_BD.detach()))
    return weight * torch.stack(terms).sum()


def _check_state(state: Mapping[str, Tensor]) -> None:
    of_floats = ("running_max", "normaliser", "weighted_sum", "temperature")
    missing = {*of_floats, "count"} - state.keys()
    if missing:
        raise InvalidTensorError(f"state: missing {', '.join(sorted(missing))}")
    check_shape("state weighted_sum", state["weighted_sum"], None, None)
    samples = len(state["weighted_sum"])
    check_shape("state running_max", state["running_max"], samples)
    check_shape("state normaliser", state["normaliser"], samples)
    if state["count"].numel() != 1 or state["temperature"].numel() != 1:
        raise InvalidTensorError("state: count and temperature must be single numbers")
    if state["count"].dtype != torch.int64 or not all(state[name].is_floating_point() for name in of_floats):
        raise InvalidTensorError("state: count must be int64, and all else of floats")
    if int(state["count"]) < 0 or not float(state["temperature"]) > 0:
        raise InvalidTensorError("state: count must be from 0 and temperature above 0")
    check_finite("state weighted_sum", state["weighted_sum"])
    check_finite("state normaliser", state["normaliser"])
    if int(state["count"]):
        check_finite("state running_max", state["running_max"])
        if not bool((state["normaliser"] > 0).all()):
            raise InvalidTensorError("state normaliser: every value must be above 0")
