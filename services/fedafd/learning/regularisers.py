"""What a client's encoder learns from the public set beside its task, one class per alignment mode.

Shape legend: B public samples of the batch, N public samples, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fedafd.algorithm.alignment import BiLevelAlignment, pairing_loss
from fedafd.algorithm.creamfl import inter_modal_contrast, intra_modal_contrast
from fedafd.algorithm.fedmd import digest_loss
from fedafd.domain.config import AlignmentConfig, AlignmentMode
from fedafd.domain.kinds import Modality

__all__ = ["Regulariser", "Terms", "make_regulariser"]

Reps = Mapping[Modality, Tensor]


class Terms(NamedTuple):
    """`joint` is added to the task's loss; `adversarial` has a backward of its own, balanced against the task's."""

    joint: Tensor | None
    adversarial: Tensor | None


class Regulariser(Protocol):
    """Terms of one public batch; features [B, D] by modality, `rows_B` the public rows they belong to."""

    def __call__(self, features: Reps, rows_B: Tensor) -> Terms: ...


def make_regulariser(
    config: AlignmentConfig,
    *,
    global_reps: Reps,
    alignment: BiLevelAlignment,
    discriminators: torch.optim.Optimizer,
    previous: Reps,
    weight: float = 1.0,
) -> Regulariser | None:
    """The regulariser of `config.mode`; None for off. `global_reps`, `previous`: [N, D] by modality.

    `weight`: a factor on all but the adversarial term, whose gradient is balanced anyway.
    """
    mode = config.mode
    if mode is AlignmentMode.OFF:
        return None
    if mode is AlignmentMode.CONTRASTIVE:
        return _Contrastive(config, global_reps, previous, weight)
    if mode is AlignmentMode.DIGEST:
        return _Digest(config, global_reps, weight)
    if mode is AlignmentMode.PAIRING:
        return _Pairing(config, global_reps, weight)
    pairing = _Pairing(config, global_reps, weight) if mode is AlignmentMode.ADVERSARIAL_PAIRING else None
    return _Adversarial(global_reps, alignment, discriminators, pairing)


class _Pairing:
    def __init__(self, config: AlignmentConfig, global_reps: Reps, weight: float) -> None:
        self._config, self._global = config, global_reps
        self._weight = weight * config.pairing_weight

    def __call__(self, features: Reps, rows_B: Tensor) -> Terms:
        targets = {m: reps[rows_B] for m, reps in self._global.items()}
        term = pairing_loss(features, targets, temperature=self._config.pairing_temperature)
        return Terms(self._weight * term, None)


class _Adversarial:
    """BAA: one discriminator step, then the encoder's loss."""

    def __init__(
        self,
        global_reps: Reps,
        alignment: BiLevelAlignment,
        discriminators: torch.optim.Optimizer,
        pairing: _Pairing | None,
    ) -> None:
        self._global, self._alignment, self._discriminators = global_reps, alignment, discriminators
        self._pairing = pairing

    def __call__(self, features: Reps, rows_B: Tensor) -> Terms:
        targets = {m: reps[rows_B] for m, reps in self._global.items()}
        fakes = {m: f.detach() for m, f in features.items()}
        torch.autograd.backward(self._alignment.discriminator_loss(fakes, targets))
        self._discriminators.step()
        self._discriminators.zero_grad(set_to_none=True)
        joint = self._pairing(features, rows_B).joint if self._pairing is not None else None
        return Terms(joint, self._alignment.encoder_loss(features))


class _Contrastive:
    """CreamFL's local regularisation."""

    def __init__(self, config: AlignmentConfig, global_reps: Reps, previous: Reps, weight: float) -> None:
        self._config, self._global, self._previous = config, global_reps, previous
        self._weight = weight * config.contrastive_weight

    def __call__(self, features: Reps, rows_B: Tensor) -> Terms:
        tau = self._config.contrastive_temperature
        terms = []
        for modality, feature_BD in features.items():
            terms.append(inter_modal_contrast(feature_BD, self._global[modality.other], rows_B, temperature=tau))
            own, before = self._global[modality][rows_B], self._previous[modality][rows_B]
            terms.append(intra_modal_contrast(feature_BD, own, before, temperature=tau))
        return Terms(self._weight * torch.stack(terms).sum(), None)


class _Digest:
    """FedMD's digest step: squared distance to the consensus."""

    def __init__(self, config: AlignmentConfig, global_reps: Reps, weight: float) -> None:
        self._global, self._weight = global_reps, weight * config.digest_weight

    def __call__(self, features: Reps, rows_B: Tensor) -> Terms:
        terms = [digest_loss(feature_BD, self._global[m][rows_B]) for m, feature_BD in features.items()]
        return Terms(self._weight * torch.stack(terms).sum(), None)
