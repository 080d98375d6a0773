"""SED on bytes: one client's representations folded into a state, states merged, the ensemble read off.

Shape legend: N public samples, D embedding dimension. A state is the safetensors of SimilarityEnsemble.state(), its
rows in float16 where that loses nothing (fedafd.artifacts.sed_states). The global representations are centred first
where the configuration says so; clients send theirs in that space already.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save
from safetensors.torch import load
from torch import Tensor

from fedafd.algorithm.centring import centre, public_mean
from fedafd.algorithm.creamfl import ContrastiveEnsemble
from fedafd.algorithm.distillation import SimilarityEnsemble
from fedafd.algorithm.fedmd import MeanEnsemble
from fedafd.artifacts.sed_states import HALF_ROWS, WEIGHTED_SUM
from fedafd.domain.config import EnsembleMode, FederationConfig
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import Modality
from fedafd.domain.merge_tree import Branch
from fedafd.learning.optimizers import choose_device

__all__ = [
    "aggregate",
    "client_weight",
    "compared_rows",
    "empty_ensemble",
    "fold_state",
    "merge_states",
    "packed",
    "packed_state",
    "read_state",
    "state_digest",
    "trimmed_name",
]

_OF_ALL = frozenset({"limit", "share"})
"""What a limit has beside the samples that single states are trimmed on."""


def empty_ensemble(
    config: FederationConfig, modality: Modality, global_reps: Mapping[Modality, NDArray[np.float32]], device: str
) -> SimilarityEnsemble:
    """An ensemble of nobody that compares with the global representations [N, D] of both modalities, on the device."""
    mode, temperature = config.distillation.ensemble, config.distillation.temperature
    target = global_reps[modality.other if mode is EnsembleMode.CONTRASTIVE else modality]
    target_ND = compared_rows(config, target, choose_device(device))
    if mode is EnsembleMode.MEAN:
        return MeanEnsemble(target_ND)
    kind = ContrastiveEnsemble if mode is EnsembleMode.CONTRASTIVE else SimilarityEnsemble
    return kind(target_ND, temperature, precision=config.distillation.precision)


def compared_rows(config: FederationConfig, reps_ND: NDArray[np.float32], device: torch.device | None = None) -> Tensor:
    """Global representations as clients' are compared with them: centred where the configuration says so."""
    rows_ND = torch.from_numpy(reps_ND).to(device or "cpu")
    return centre(rows_ND, public_mean(rows_ND)) if config.distillation.centre else rows_ND


def client_weight(config: FederationConfig, staleness: int) -> float:
    """What a client weighs beside others whose representations are fresh, if its own are so many rounds old."""
    decay = config.distillation.staleness_decay
    return 1.0 if decay is None else decay**staleness


def fold_state(
    config: FederationConfig,
    modality: Modality,
    reps_ND: NDArray[np.float32],
    global_reps: Mapping[Modality, NDArray[np.float32]],
    *,
    device: str = "cpu",
    staleness: int = 0,
) -> bytes:
    """The state of one client's representations of one modality; `global_reps` hold both, [N, D] each.

    `staleness`: how many rounds ago they were made; each multiplies the client's weight by `staleness_decay`.
    """
    ensemble = empty_ensemble(config, modality, global_reps, device)
    ensemble.add(torch.from_numpy(reps_ND).to(choose_device(device)), weight=client_weight(config, staleness))
    return packed_state(ensemble)


def merge_states(states: Sequence[Branch[bytes]], limit: bytes | None = None) -> bytes:
    """One state of several, merged in the given order; with the limit of fedafd.learning.weighing each is capped.

    A branch that holds several is merged first: the bits are those of merging what it merges to.
    Raises DataError or InvalidTensorError for one that is no state.
    """
    return packed_state(_merged(states, None if limit is None else _tensors_in(limit)))


def state_digest(state: bytes) -> bytes:
    """What a limit knows a single client's state by, 32 bytes."""
    return hashlib.sha256(state).digest()


def trimmed_name(digest: bytes) -> str:
    """Of the samples, bool [N], on which a state counts for nothing, in a limit."""
    return f"trimmed/{digest.hex()}"


def aggregate(config: FederationConfig, state: bytes) -> NDArray[np.float32]:
    """The weighted ensemble [N, D] of a state."""
    ensemble = read_state(state)
    result: NDArray[np.float32] = ensemble.result(normalise=config.distillation.normalise_aggregate).float().numpy()
    return result


def _merged(branches: Sequence[Branch[bytes]], limits: Mapping[str, Tensor] | None) -> SimilarityEnsemble:
    merged = _branch(branches[0], limits)
    for branch in branches[1:]:
        merged.merge(_branch(branch, limits))
    return merged


def _branch(branch: Branch[bytes], limits: Mapping[str, Tensor] | None) -> SimilarityEnsemble:
    if isinstance(branch, bytes):
        return _capped(branch, limits)
    merged = _merged(branch, limits)
    if limits is not None:  # as the state that it would be
        merged.cap(limits["limit"], _share(merged, limits))
    return merged


def _capped(state: bytes, limits: Mapping[str, Tensor] | None) -> SimilarityEnsemble:
    ensemble = read_state(state)
    if limits is not None:
        if len(limits) > len(_OF_ALL):  # hashing a state is no little part of a merge
            trimmed = limits.get(trimmed_name(state_digest(state)))
            if trimmed is not None:
                ensemble.leave_out(trimmed)
        ensemble.cap(limits["limit"], _share(ensemble, limits))
    return ensemble


def _share(ensemble: SimilarityEnsemble, limits: Mapping[str, Tensor]) -> float:
    return min(1.0, float(limits["share"]) * ensemble.count)


def _tensors_in(state: bytes) -> Mapping[str, Tensor]:
    try:
        return load(state)
    except SafetensorError as error:
        raise DataError(f"SED state of {len(state)} bytes: not readable as safetensors: {error}") from None


def read_state(state: bytes) -> SimilarityEnsemble:
    """The ensemble of a state. Raises DataError or InvalidTensorError for what is none."""
    tensors = dict(_tensors_in(state))
    if HALF_ROWS in tensors:
        if WEIGHTED_SUM in tensors:
            raise DataError(f"SED state of {len(state)} bytes: has its rows twice, as {WEIGHTED_SUM} and {HALF_ROWS}")
        tensors[WEIGHTED_SUM] = tensors.pop(HALF_ROWS).float()
    return SimilarityEnsemble.from_state(tensors, copy=False)


def packed_state(ensemble: SimilarityEnsemble) -> bytes:
    """The state of an ensemble; the same bytes for the same values. One client's rows are in float16 if they can be."""
    tensors = ensemble.state_now()
    rows_ND = tensors[WEIGHTED_SUM]
    if ensemble.count == 1 and rows_ND.dtype == torch.float32:
        half_ND = rows_ND.half()
        if _same(half_ND.float(), rows_ND):
            del tensors[WEIGHTED_SUM]
            tensors[HALF_ROWS] = half_ND
    return packed(tensors)


def _same(first_ND: Tensor, second_ND: Tensor) -> bool:
    """Whether all numbers are equal; NumPy takes a third of torch's time (measured)."""
    if first_ND.device.type != "cpu":
        return torch.equal(first_ND, second_ND)
    return np.array_equal(first_ND.numpy(), second_ND.numpy())


def packed(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as safetensors bytes; the same bytes for the same values."""
    return save({name: tensors[name].cpu().contiguous().numpy() for name in sorted(tensors)})
