"""The gradient of a step's private samples by DP-SGD: each sample's own, clipped, summed, noised (docs/privacy.md).

Each sample goes through the model by itself, so that no loss and no layer can couple two of them. Noise, draws of
samples and whatever else is random follow from a secret that the federation does not have.

Shape legend: B samples, D embedding dimension.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from fedafd.algorithm.private_gradients import clipped_sum
from fedafd.domain.config import DpConfig, FederationConfig, FusionMode
from fedafd.domain.errors import ConfigurationError, StateUnusableError
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.domain.state_cases import AFRESH
from fedafd.learning.client_model import ENCODERS, ClientModel
from fedafd.learning.trainable import trainable_parameters

if TYPE_CHECKING:
    from fedafd.learning.local_site import LocalSite
    from fedafd.learning.step_batches import PrivateBatch

__all__ = [
    "IS_PRIVATE",
    "PrivateGradient",
    "PrivateTraining",
    "gaussian_like",
    "need_private_model",
    "need_private_state",
]

IS_PRIVATE = "differentially_private"
"""Where a state says that all of its training was."""
_MOST_NUMBERS = 2**25
"""Of the gradients that are held at once."""
_MOST_SAMPLES = 64
_MOST_LOSS = 1e6
"""Of a sample, in what is told at the site: no sample makes a training look as if it had lost its footing."""


@dataclass(frozen=True, kw_only=True)
class PrivateTraining:
    """Local training by DP-SGD."""

    config: DpConfig
    spend: Callable[[], None]
    """Called once, before the first step: writes down what the training costs, or refuses it by an error."""
    secret: int = field(default_factory=lambda: int.from_bytes(os.urandom(32), "big"), repr=False)
    """What all chance follows from. A trial may fix it to get the same again: nothing is private then."""

    def seed(self, what: str) -> int:
        """Of one use of chance, for torch."""
        return int(self.chance(what).integers(2**63))

    def chance(self, what: str, *numbers: int) -> np.random.Generator:
        """A source of its own for each use."""
        return np.random.default_rng([self.secret, *what.encode(), *numbers])


def need_private_state(meta: Mapping[str, Any]) -> None:
    """Raise StateUnusableError for a state that was trained without differential privacy once."""
    if meta.get(IS_PRIVATE) is not True:
        raise StateUnusableError(
            "the saved state was trained without differential privacy, and what it has learned would leave under"
            f" privacy.dp; {AFRESH}"
        )


def need_private_model(site: LocalSite) -> None:
    """Raise ConfigurationError for a client whose training cannot be private."""
    if site.kind is ClientKind.PAIR:
        raise ConfigurationError(
            "privacy.dp: a pair client's loss scores each pair against all others of its batch, so that no sample has a"
            " share of its own; remove privacy.dp, or take part as an image or text client"
        )
    if site.config.averaging.value != "off":
        raise ConfigurationError(
            f"privacy.dp: the federation's strategy {site.config.strategy} averages weights, and a site with privacy.dp"
            " delivers none"
        )
    text = site.encoders.get(Modality.TEXT)
    if text is not None and site.words_of_private:
        raise ConfigurationError(
            "privacy.dp: the text encoder's vocabulary would be made of private texts, and a word in it tells of its"
            " sample; the federation sets client.vocabulary: public, or your text_encoder names pretrained weights"
        )
    site.model.train()
    for name, module in site.model.named_modules():
        if _couples(module) and _learns_by(site, name):
            raise ConfigurationError(
                f"privacy.dp: {name} ({type(module).__name__}) normalises a sample by the others of its"
                " batch; take an encoder with layer or group normalisation (convnextv2, vit), or a pretrained one with"
                " trainable: head, and fusion.inner_norm: false"
            )
    site.model.eval()


def _couples(module: nn.Module) -> bool:
    """Whether it normalises by, or remembers, the batch."""
    of_batch = isinstance(module, nn.modules.batchnorm._BatchNorm)
    remembers = isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats
    return module.training and (of_batch or remembers)


def _learns_by(site: LocalSite, name: str) -> bool:
    """Whether private samples go through it in training; not where a frozen backbone has encoded them before."""
    part, _, inner = name.partition(".")
    frozen = {m.value for m, encoder in site.encoders.items() if encoder.config.trainable == "head"}
    return not (part == ENCODERS and inner.partition(".")[0] in frozen)


class PrivateGradient:
    """Of one round's steps, which are paid for when it is made."""

    def __init__(self, private: PrivateTraining, site: LocalSite) -> None:
        private.spend()
        self._private, self._site = private, site
        self._batch_size = site.training.batch_size
        parameters = dict(site.model.named_parameters())
        learns = {id(parameter) for parameter in trainable_parameters(site.model)}
        prefix = "head." if site.model.mode is FusionMode.GLOBAL else ""
        self._names = [
            name
            for name, parameter in parameters.items()
            if id(parameter) in learns and not name.startswith("alignment.") and name.startswith(prefix)
        ]
        self._learned = [parameters[name] for name in self._names]
        self._by_itself = _SampleLoss(site.model, site.config)
        self._vmaps = True

    def set_gradients(self, batch: PrivateBatch, where: tuple[int, int]) -> Tensor:
        """Give each parameter the noised mean gradient of a batch that was drawn by chance; returns the mean loss.

        `where`: epoch and step, no two of a round alike; the noise follows from them and the secret.
        """
        clip = self._private.config.clip
        total, loss = (
            [torch.zeros_like(parameter) for parameter in self._learned],
            torch.zeros((), device=self._site.device),
        )
        count = 0
        for part in self._parts(batch):
            gradients, losses_B = self._of_each(part)
            total = [so_far + more for so_far, more in zip(total, clipped_sum(gradients, clip), strict=True)]
            loss, count = (
                loss + losses_B.nan_to_num(0.0, 0.0, 0.0).clamp(-_MOST_LOSS, _MOST_LOSS).sum(),
                count + len(losses_B),
            )
        deviation = self._private.config.noise_multiplier * clip
        noise = gaussian_like(total, deviation, self._private.chance("noise", *where))
        for parameter, summed, drawn in zip(self._learned, total, noise, strict=True):
            # By the size that was asked for: how many were drawn is nobody's business.
            parameter.grad = (summed + drawn) / self._expected
        return loss / max(count, 1)

    @property
    def _expected(self) -> int:
        return min(self._batch_size, self._private.config.samples)

    def _parts(self, batch: PrivateBatch) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        (rows,), (frozen,) = batch.rows.values(), batch.frozen.values()
        assert batch.labels is not None
        numbers = sum(parameter.numel() for parameter in self._learned)
        size = min(max(_MOST_NUMBERS // max(numbers, 1), 1), _MOST_SAMPLES)
        for start in range(0, len(rows), size):
            yield rows[start : start + size], frozen[start : start + size], batch.labels[start : start + size]

    def _of_each(self, part: tuple[Tensor, Tensor, Tensor]) -> tuple[list[Tensor], Tensor]:
        """Gradients [B, ...] by parameter, and losses [B]."""
        if self._vmaps:
            try:
                return self._all_at_once(part)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:  # an operator without a rule for it, such as a GRU: the same, one after the other
                self._vmaps = False
        results = [self._one(*(value[i] for value in part)) for i in range(len(part[0]))]
        gradients, losses = zip(*results, strict=True)
        return [torch.stack(parameter) for parameter in zip(*gradients, strict=True)], torch.stack(losses)

    def _all_at_once(self, part: tuple[Tensor, Tensor, Tensor]) -> tuple[list[Tensor], Tensor]:
        parameters, others = self._apart()

        def loss_of(learned: dict[str, Tensor], row: Tensor, frozen: Tensor, label: Tensor) -> Tensor:
            loss: Tensor = functional_call(self._by_itself, (learned, others), (row, frozen, label))
            return loss

        gradients_of = vmap(grad_and_value(loss_of), in_dims=(None, 0, 0, 0), randomness="different")
        gradients, losses_B = gradients_of(parameters, *part)
        return [gradients[name] for name in parameters], losses_B.detach()

    def _one(self, row: Tensor, frozen: Tensor, label: Tensor) -> tuple[list[Tensor], Tensor]:
        parameters, others = self._apart()
        learned = {name: parameter.requires_grad_() for name, parameter in parameters.items()}
        with torch.enable_grad():
            loss: Tensor = functional_call(self._by_itself, (learned, others), (row, frozen, label))
            gradients = torch.autograd.grad(loss, list(learned.values()), allow_unused=True, materialize_grads=True)
        return list(gradients), loss.detach()

    def _apart(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Parameters that learn, and all else as copies: nothing that a layer notes of a sample stays in the model."""
        learned = {
            f"model.{name}": parameter.detach() for name, parameter in zip(self._names, self._learned, strict=True)
        }
        model = self._by_itself
        every = {name: parameter.detach() for name, parameter in model.named_parameters()}
        every |= {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
        return learned, {name: tensor for name, tensor in every.items() if name not in learned}


class _SampleLoss(nn.Module):
    """One sample's task loss; what the head costs by itself looks at no sample and is not in it."""

    def __init__(self, model: ClientModel, config: FederationConfig) -> None:
        super().__init__()
        self.model, self._config = model, config

    def forward(self, row: Tensor, frozen_D: Tensor, label: Tensor) -> Tensor:
        """A scalar."""
        (modality,) = self.model.kind.modalities
        local = self.model.encoders[modality](row.unsqueeze(0))
        views = self.model.views(modality, local, frozen_D.unsqueeze(0))
        loss: Tensor = self.model.labels_loss(views, label.unsqueeze(0), self._config)
        return loss


def gaussian_like(tensors: Sequence[Tensor], deviation: float, generator: np.random.Generator) -> list[Tensor]:
    """Independent Gaussian noise of the shape, type and place of each tensor."""
    return [
        torch.from_numpy(deviation * generator.standard_normal(tuple(tensor.shape), dtype=np.float32)).to(tensor)
        for tensor in tensors
    ]
