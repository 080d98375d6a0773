"""Losses of several terms in one pass, for a GPU: there a small operator costs its launch, whatever its size.

They equal the term by term forms of alignment, heads and contrastive, in another order of float additions; a CPU keeps
those. Tested against them in float64, gradients included.
Shape legend: B samples, C classes, D embedding dimension, V views of a batch, F features and T targets of its items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from fedafd.algorithm.checks import compute_dtype
from fedafd.algorithm.contrastive import SoftContrastiveLoss
from fedafd.algorithm.heads import ClassificationHead

if TYPE_CHECKING:
    from fedafd.algorithm.alignment import Discriminator

__all__ = ["contrast_losses", "fooling_loss", "head_losses", "pairing_at_once", "takes_at_once", "telling_loss"]


def takes_at_once(*tensors: Tensor) -> bool:
    """True off the CPU, for batches of one size."""
    return tensors[0].device.type != "cpu" and len({tensor.shape for tensor in tensors}) == 1


def telling_loss(discriminators: Sequence[Discriminator], reals: Sequence[Sequence[Tensor]], fake: Tensor) -> Tensor:
    """Sum over discriminators and real batches [B, D] of the mean losses on them and on as many fakes, a scalar.

    `reals`: for each discriminator those that it should take for real, one for each batch in `fake` [F * B, D].
    """
    rows = torch.stack([torch.cat([*real, fake]) for real in reals])
    logits = _logits(discriminators, rows, frozen=False)
    count = len(fake)
    # -log sigmoid(x) = softplus(-x) for the real ones, -log(1 - sigmoid(x)) = softplus(x) for the others.
    losses = F.softplus(torch.cat([-logits[:, :count], logits[:, count:]], dim=1))
    return losses.sum() / (count // len(reals[0]))


def fooling_loss(discriminators: Sequence[Discriminator], features: Sequence[Tensor]) -> Tensor:
    """Sum over discriminators and features [B, D] of the mean loss of being taken for a fake, a scalar."""
    rows = torch.cat(list(features))
    logits = _logits(discriminators, rows.expand(len(discriminators), *rows.shape), frozen=True)
    return F.softplus(-logits).sum() / len(features[0])


def _logits(discriminators: Sequence[Discriminator], rows: Tensor, *, frozen: bool) -> Tensor:
    """Of each discriminator on its rows [discriminators, rows, D]; all are of one shape."""
    hidden = rows
    for index in range(len(discriminators[0].weights)):
        weight = torch.stack([discriminator.weights[index] for discriminator in discriminators])
        bias = torch.stack([discriminator.biases[index] for discriminator in discriminators])
        if frozen:
            weight, bias = weight.detach(), bias.detach()
        if index:
            hidden = F.leaky_relu(hidden, 0.2)
        hidden = torch.baddbmm(bias.unsqueeze(1), hidden, weight.mT)
    return hidden.squeeze(-1)


def pairing_at_once(features: Sequence[Tensor], targets: Sequence[Tensor], temperature: float) -> Tensor:
    """Mean of info_nce over all pairs of a feature and a target [B, D] of the same items, a scalar."""
    dtype = compute_dtype(*features, *targets)
    with torch.autocast(features[0].device.type, enabled=False):
        mine = F.normalize(torch.cat(list(features)).to(dtype), dim=-1)
        theirs = F.normalize(torch.stack(list(targets)).to(dtype), dim=-1)
        logits_TXB = (mine / temperature) @ theirs.mT
        size = len(features[0])
        # The own target's logit of each row: a diagonal of each block, which needs no index.
        own = logits_TXB.unflatten(1, (len(features), size)).diagonal(dim1=-2, dim2=-1)
        loss: Tensor = (logits_TXB.logsumexp(dim=-1).flatten() - own.flatten()).mean()
        return loss


def head_losses(head: ClassificationHead, views: Sequence[Tensor], labels_B: Tensor) -> Tensor:
    """ClassificationHead.loss of each view [B, D], without the separation term, [V]."""
    logits_VBC = head(torch.cat(list(views))).unflatten(0, (len(views), -1))
    own_VB = logits_VBC.gather(-1, labels_B.long().expand(len(views), -1).unsqueeze(-1)).squeeze(-1)
    losses_V: Tensor = (logits_VBC.logsumexp(dim=-1) - own_VB).mean(dim=1)
    return losses_V


def contrast_losses(contrast: SoftContrastiveLoss, images: Sequence[Tensor], texts: Sequence[Tensor]) -> Tensor:
    """SoftContrastiveLoss of each view's image and text features [B, D], normalised here, [V]."""
    image_VBD, text_VBD = (F.normalize(torch.stack(list(views)), dim=-1) for views in (images, texts))
    logits_VBB = contrast.match_logits(image_VBD, text_VBD)
    size = logits_VBB.shape[-1]
    sign_BB = 1 - 2 * torch.eye(size, device=logits_VBB.device, dtype=logits_VBB.dtype)
    return 2 * F.softplus(2 * sign_BB * logits_VBB).sum(dim=(1, 2))
