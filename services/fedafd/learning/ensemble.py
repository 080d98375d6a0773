"""SED on bytes: one client's representations folded into a state, states merged, the ensemble read off.

Shape legend: N public samples, D embedding dimension. A state is the safetensors of SimilarityEnsemble.state(). The
global representations are centred first where the configuration says so; clients send theirs in that space already.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fedafd.algorithm.centring import centre, public_mean
from fedafd.algorithm.creamfl import ContrastiveEnsemble
from fedafd.algorithm.distillation import SimilarityEnsemble
from fedafd.algorithm.fedmd import MeanEnsemble
from fedafd.domain.config import EnsembleMode, FederationConfig
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import Modality
from fedafd.learning.optimizers import choose_device

__all__ = ["aggregate", "fold_state", "merge_states", "state_digest", "trimmed_name"]


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
    chosen_device = choose_device(device)
    mode, temperature = config.distillation.ensemble, config.distillation.temperature
    target_ND = torch.from_numpy(global_reps[modality.other if mode is EnsembleMode.CONTRASTIVE else modality]).to(
        chosen_device
    )
    if config.distillation.centre:
        target_ND = centre(target_ND, public_mean(target_ND))
    if mode is EnsembleMode.MEAN:
        ensemble: SimilarityEnsemble = MeanEnsemble(target_ND)
    elif mode is EnsembleMode.CONTRASTIVE:
        ensemble = ContrastiveEnsemble(target_ND, temperature, precision=config.distillation.precision)
    else:
        ensemble = SimilarityEnsemble(target_ND, temperature, precision=config.distillation.precision)
    decay = config.distillation.staleness_decay
    ensemble.add(torch.from_numpy(reps_ND).to(chosen_device), weight=1.0 if decay is None else decay**staleness)
    return _packed(ensemble)


def merge_states(states: Sequence[bytes], limit: bytes | None = None) -> bytes:
    """One state of several, merged in the given order; with the limit of fedafd.learning.weighing each is capped.

    Raises DataError or InvalidTensorError for one that is no state.
    """
    merged = _capped(states[0], limit)
    for state in states[1:]:
        merged.merge(_capped(state, limit))
    return _packed(merged)


def state_digest(state: bytes) -> bytes:
    """What a limit knows a single client's state by, 32 bytes."""
    return hashlib.sha256(state).digest()


def trimmed_name(digest: bytes) -> str:
    """Of the samples, bool [N], on which a state counts for nothing, in a limit."""
    return f"trimmed/{digest.hex()}"


def aggregate(config: FederationConfig, state: bytes) -> NDArray[np.float32]:
    """The weighted ensemble [N, D] of a state."""
    ensemble = SimilarityEnsemble.from_state(_tensors_in(state))
    result: NDArray[np.float32] = ensemble.result(normalise=config.distillation.normalise_aggregate).float().numpy()
    return result


def _capped(state: bytes, limit: bytes | None) -> SimilarityEnsemble:
    ensemble = SimilarityEnsemble.from_state(_tensors_in(state))
    if limit is not None:
        limits = _tensors_in(limit)
        trimmed = limits.get(trimmed_name(state_digest(state)))
        if trimmed is not None:
            ensemble.leave_out(trimmed)
        ensemble.cap(limits["limit"], min(1.0, float(limits["share"]) * ensemble.count))
    return ensemble


def _tensors_in(state: bytes) -> Mapping[str, Tensor]:
    try:
        return load(state)
    except SafetensorError as error:
        raise DataError(f"SED state of {len(state)} bytes: not readable as safetensors: {error}") from None


def _packed(ensemble: SimilarityEnsemble) -> bytes:
    return save({name: torch.as_tensor(value).cpu().contiguous() for name, value in sorted(ensemble.state().items())})
