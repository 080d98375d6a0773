"""Losses of several terms in one pass are those term by term, in float64, gradients included."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedafd.algorithm.alignment import BiLevelAlignment, pairing_loss
from fedafd.algorithm.at_once import (
    contrast_losses,
    fooling_loss,
    head_losses,
    pairing_at_once,
    takes_at_once,
    telling_loss,
)
from fedafd.algorithm.contrastive import SoftContrastiveLoss
from fedafd.algorithm.heads import ClassificationHead
from fedafd.domain.kinds import Modality

BATCH, DIM = 5, 12
IMAGE, TEXT = Modality.IMAGE, Modality.TEXT
KINDS = pytest.mark.parametrize("modalities", [(IMAGE,), (TEXT,), (IMAGE, TEXT)])


def rows(seed: int, *, learns: bool = False) -> Tensor:
    made = torch.randn(BATCH, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return made.requires_grad_(learns)


def gradients(loss: Tensor, of: Iterable[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(of), allow_unused=True, materialize_grads=True)
    return [loss.detach(), *found]


def alignment() -> BiLevelAlignment:
    torch.manual_seed(1)
    return BiLevelAlignment(DIM, weight=0.7, hidden=(6, 4)).double()


@KINDS
def test_the_discriminators_learn_the_same(modalities: tuple[Modality, ...]) -> None:
    game = alignment()
    fakes = {m: rows(n) for n, m in enumerate(modalities)}
    reals = {m: rows(10 + n) for n, m in enumerate(Modality)}
    expected = gradients(game.discriminator_loss(fakes, reals), game.parameters())
    told = [[reals[m] for m in fakes], [reals[m.other] for m in fakes]]
    loss = game.weight * telling_loss((game.within, game.across), told, torch.cat(list(fakes.values())))
    torch.testing.assert_close(gradients(loss, game.parameters()), expected)


@KINDS
def test_the_encoders_learn_the_same_from_the_discriminators(modalities: tuple[Modality, ...]) -> None:
    game = alignment()
    features = {m: rows(n, learns=True) for n, m in enumerate(modalities)}
    expected = gradients(game.encoder_loss(features), features.values())
    loss = game.weight * fooling_loss((game.within, game.across), list(features.values()))
    assert not any(parameter.grad is not None for parameter in game.parameters())
    torch.testing.assert_close(gradients(loss, features.values()), expected)


def test_frozen_discriminators_get_no_gradient() -> None:
    game = alignment()
    feature = rows(0, learns=True)
    torch.autograd.backward(fooling_loss((game.within, game.across), [feature]))
    assert feature.grad is not None
    assert all(parameter.grad is None for parameter in game.parameters())


@KINDS
def test_pairing_is_the_mean_of_all_its_terms(modalities: tuple[Modality, ...]) -> None:
    features = {m: rows(n, learns=True) for n, m in enumerate(modalities)}
    targets = {m: rows(10 + n) for n, m in enumerate(Modality)}
    expected = gradients(pairing_loss(features, targets, temperature=0.1), features.values())
    loss = pairing_at_once(list(features.values()), list(targets.values()), 0.1)
    torch.testing.assert_close(gradients(loss, features.values()), expected)


def test_a_heads_losses_are_those_of_each_view_apart() -> None:
    torch.manual_seed(2)
    head = ClassificationHead(DIM, 4, logit_scale=10.0).double()
    views = [rows(n, learns=True) for n in range(3)]
    labels = torch.tensor([0, 3, 1, 1, 2])
    learned: list[Tensor] = [*head.parameters(), *views]
    weights = (1.0, 0.3, 0.3)
    apart = [
        weight * head.loss(view, labels, separation_weight=0.5) for weight, view in zip(weights, views, strict=True)
    ]
    told, separation = head_losses(head, views, labels), 0.5 * head.separation_loss()
    loss = told[0] + 0.3 * told[1:].sum() + 1.6 * separation
    torch.testing.assert_close(gradients(loss, learned), gradients(torch.stack(apart).sum(), learned))


def test_contrasts_are_those_of_each_view_apart() -> None:
    contrast = SoftContrastiveLoss(5.0).double()
    images, texts = ([rows(n + start, learns=True) for n in range(3)] for start in (0, 5))
    learned: list[Tensor] = [*contrast.parameters(), *images, *texts]
    apart = [contrast(F.normalize(x, dim=-1), F.normalize(y, dim=-1)) for x, y in zip(images, texts, strict=True)]
    told = contrast_losses(contrast, images, texts)
    weights = torch.tensor([1.0, 0.3, 0.3], dtype=torch.float64)
    expected = gradients((weights * torch.stack(apart)).sum(), learned)
    torch.testing.assert_close(gradients((weights * told).sum(), learned), expected)


def test_a_cpu_and_batches_of_several_sizes_go_term_by_term() -> None:
    assert not takes_at_once(rows(0))
    meta = [nn.Parameter(torch.empty(size, DIM, device="meta")) for size in (2, 2, 3)]
    assert takes_at_once(*meta[:2])
    assert not takes_at_once(*meta)
