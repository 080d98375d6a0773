"""BAA: the losses and gradients of the game against slow readable ones, the balance, the pairing term."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from fedafd.algorithm.alignment import BiLevelAlignment, Discriminator, backward_balanced, info_nce, pairing_loss
from fedafd.algorithm.checks import InvalidTensorError
from fedafd.domain.kinds import Modality

IMAGE, TEXT = Modality.IMAGE, Modality.TEXT


def unit_rows(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def alignment(dim: int = 6, weight: float = 0.5, seed: int = 0) -> BiLevelAlignment:
    torch.manual_seed(seed)
    return BiLevelAlignment(dim, weight=weight, hidden=(5, 4)).double()


def batch(size: int = 3, dim: int = 6, seed: int = 0) -> tuple[dict[Modality, Tensor], dict[Modality, Tensor]]:
    features = {m: unit_rows(size, dim, seed=seed + i).requires_grad_() for i, m in enumerate(Modality)}
    return features, {m: unit_rows(size, dim, seed=seed + 2 + i) for i, m in enumerate(Modality)}


def oracle_logit(discriminator: Discriminator, x: list[float]) -> float:
    """The MLP in Python floats."""
    layers = list(zip(discriminator.weights, discriminator.biases, strict=True))
    for index, (weight, bias) in enumerate(layers):
        x = [
            sum(w * v for w, v in zip(row, x, strict=True)) + b
            for row, b in zip(weight.tolist(), bias.tolist(), strict=True)
        ]
        if index < len(layers) - 1:
            x = [v if v > 0 else 0.2 * v for v in x]
    return x[0]


def oracle_bce(discriminator: Discriminator, rows_BD: Tensor, target: int) -> float:
    """Mean of -log(p) or -log(1 - p), p = sigmoid(logit)."""
    losses = []
    for row in rows_BD.tolist():
        probability = 1 / (1 + math.exp(-oracle_logit(discriminator, row)))
        losses.append(-math.log(probability if target else 1 - probability))
    return sum(losses) / len(losses)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.floats(0, 2), st.integers(0, 10**6), st.sampled_from([(IMAGE,), (TEXT,), (IMAGE, TEXT)]))
def test_both_losses_equal_the_definition(size: int, weight: float, seed: int, held: tuple[Modality, ...]) -> None:
    game = alignment(weight=weight, seed=seed)
    features, global_reps = batch(size, seed=seed)
    features = {modality: features[modality] for modality in held}
    discriminating = adversarial = 0.0
    for modality, feature_BD in features.items():
        discriminating += oracle_bce(game.within, global_reps[modality], 1) + oracle_bce(game.within, feature_BD, 0)
        discriminating += oracle_bce(game.across, global_reps[modality.other], 1) + oracle_bce(
            game.across, feature_BD, 0
        )
        adversarial += oracle_bce(game.within, feature_BD, 1) + oracle_bce(game.across, feature_BD, 1)
    assert game.discriminator_loss(features, global_reps).item() == pytest.approx(weight * discriminating, rel=1e-10)
    assert game.encoder_loss(features).item() == pytest.approx(weight * adversarial, rel=1e-10)


def test_discriminator_step_moves_discriminators_only() -> None:
    game = alignment()
    features, global_reps = batch()
    torch.autograd.backward(game.discriminator_loss(features, global_reps))
    assert all(feature.grad is None for feature in features.values())
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in game.parameters())


def test_encoder_step_moves_encoders_only() -> None:
    game = alignment()
    features, _ = batch()
    torch.autograd.backward(game.encoder_loss(features))
    assert all(parameter.grad is None for parameter in game.parameters())
    assert all(feature.grad is not None and feature.grad.any() for feature in features.values())


def test_gradients_equal_finite_differences() -> None:
    game = alignment()
    features, global_reps = batch()
    names = [name for name, _ in game.named_parameters()]

    def discriminator_loss(*parameters: Tensor) -> Tensor:
        class Losses(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.game = game

            def forward(self) -> Tensor:
                return self.game.discriminator_loss(features, global_reps)

        values = {f"game.{name}": value for name, value in zip(names, parameters, strict=True)}
        result: Tensor = torch.func.functional_call(Losses(), values, ())
        return result

    assert torch.autograd.gradcheck(
        lambda image, text: game.encoder_loss({IMAGE: image, TEXT: text}), [features[IMAGE], features[TEXT]]
    )
    inputs = [parameter.detach().clone().requires_grad_() for parameter in game.parameters()]
    assert torch.autograd.gradcheck(discriminator_loss, inputs)


def test_discriminators_have_the_papers_sizes_and_give_logits() -> None:
    game = BiLevelAlignment()
    shapes = [tuple(weight.shape) for weight in game.within.weights]
    assert shapes == [(128, 256), (64, 128), (1, 64)]
    assert game.within(torch.zeros(3, 256)).shape == (3,)
    with torch.no_grad():
        game.within.biases[-1].fill_(-50.0)
        game.within.weights[-1].zero_()
    assert bool((game.within(torch.ones(3, 256)) == -50).all())


def test_golden_values_of_an_undecided_game() -> None:
    game = alignment()
    features, global_reps = batch()
    with torch.no_grad():
        for parameter in game.parameters():
            parameter.zero_()
    # Every logit is 0, every term ln 2: four per modality for the discriminators, two for the encoder.
    assert game.discriminator_loss(features, global_reps).item() == pytest.approx(0.5 * 8 * math.log(2))
    assert game.encoder_loss(features).item() == pytest.approx(0.5 * 4 * math.log(2))


def test_extreme_logits_stay_finite() -> None:
    game = alignment()
    features, global_reps = batch()
    huge = {modality: 1e8 * value.detach() for modality, value in features.items()}
    assert math.isfinite(game.discriminator_loss(huge, global_reps).item())
    assert math.isfinite(game.encoder_loss(huge).item())


def test_training_the_game_makes_features_pass_for_global() -> None:
    torch.manual_seed(0)
    game = BiLevelAlignment(4, weight=1.0, hidden=(8, 8))
    real = F.normalize(torch.randn(64, 4) * 0.1 + torch.tensor([1.0, 0, 0, 0]), dim=1)
    fake = nn.Parameter(F.normalize(torch.randn(64, 4), dim=1))
    players = torch.optim.Adam(game.parameters(), 1e-2), torch.optim.Adam([fake], 1e-2)
    before = (F.normalize(fake, dim=1) @ real.T).mean().item()
    for _ in range(200):
        for player, optimizer in enumerate(players):
            optimizer.zero_grad()
            features = {IMAGE: F.normalize(fake, dim=1)}
            loss = (
                game.encoder_loss(features)
                if player
                else game.discriminator_loss(features, dict.fromkeys(Modality, real))
            )
            torch.autograd.backward(loss)
            optimizer.step()
    assert (F.normalize(fake, dim=1) @ real.T).mean().item() > before + 0.3


def test_wrong_shapes_and_missing_modalities_are_refused() -> None:
    game = alignment()
    features, global_reps = batch()
    with pytest.raises(InvalidTensorError, match=r"features\[image\]: expected shape \[any, 6\], got \[3, 5\]"):
        game.encoder_loss({IMAGE: torch.ones(3, 5)})
    with pytest.raises(InvalidTensorError, match="at least one modality"):
        game.encoder_loss({})
    with pytest.raises(InvalidTensorError, match="text is missing"):
        game.discriminator_loss({IMAGE: features[IMAGE]}, {IMAGE: global_reps[IMAGE]})
    with pytest.raises(ValueError, match=r"global_reps\[image\]"):
        game.discriminator_loss(features, {IMAGE: torch.ones(3), TEXT: global_reps[TEXT]})


def oracle_info_nce(features_BD: Tensor, targets_MD: Tensor, positives: list[int], temperature: float) -> float:
    total = 0.0
    for feature, positive in zip(features_BD.tolist(), positives, strict=True):
        logits = []
        for target in targets_MD.tolist():
            product = sum(a * b for a, b in zip(feature, target, strict=True))
            logits.append(product / math.hypot(*feature) / math.hypot(*target) / temperature)
        total += math.log(sum(math.exp(logit) for logit in logits)) - logits[positive]
    return total / len(positives)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.sampled_from([0.1, 0.5, 1.0]), st.integers(0, 10**6))
def test_info_nce_equals_the_definition(size: int, candidates: int, temperature: float, seed: int) -> None:
    features_BD, targets_MD = 3 * unit_rows(size, 6, seed=seed), 2 * unit_rows(candidates, 6, seed=seed + 1)
    positives_B = torch.randint(candidates, (size,), generator=torch.Generator().manual_seed(seed))
    loss = info_nce(features_BD, targets_MD, positives_B, temperature=temperature)
    expected = oracle_info_nce(features_BD, targets_MD, positives_B.tolist(), temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_pairing_is_the_mean_over_modalities_and_targets() -> None:
    features, global_reps = batch(4)
    expected = [
        oracle_info_nce(features[own], global_reps[target], [0, 1, 2, 3], 0.1)
        for own in Modality
        for target in Modality
    ]
    loss = pairing_loss(features, global_reps)
    assert loss.item() == pytest.approx(sum(expected) / 4, rel=1e-9)
    one = pairing_loss({TEXT: features[TEXT]}, global_reps)
    assert one.item() == pytest.approx(sum(expected[2:]) / 2, rel=1e-9)


def test_pairing_refuses_what_does_not_pair() -> None:
    features, global_reps = batch(4)
    with pytest.raises(InvalidTensorError, match="targets_MD"):
        info_nce(features[IMAGE], global_reps[IMAGE][:3])
    with pytest.raises(InvalidTensorError, match=r"expected values in 0\.\.3"):
        info_nce(features[IMAGE], global_reps[IMAGE], torch.tensor([0, 1, 2, 4]))
    with pytest.raises(InvalidTensorError, match="temperature"):
        info_nce(features[IMAGE], global_reps[IMAGE], temperature=0.0)
    with pytest.raises(InvalidTensorError, match="at least one"):
        pairing_loss({}, global_reps)


def losses(encoder: nn.Linear, head: nn.Linear, factor: float) -> tuple[Tensor, Tensor]:
    x = torch.arange(6, dtype=torch.float64).view(2, 3)
    hidden = encoder(x)
    return head(hidden).square().sum(), factor * hidden.sin().sum()


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("share", [0.05, 0.5])
def test_adversarial_gradient_is_held_to_its_share(factor: float, share: float) -> None:
    torch.manual_seed(0)
    encoder, head = nn.Linear(3, 4).double(), nn.Linear(4, 2).double()
    parameters = list(encoder.parameters())
    task, adversarial = losses(encoder, head, factor)
    task_gradients = torch.autograd.grad(task, [*parameters, *head.parameters()], retain_graph=True)
    adversarial_gradients = torch.autograd.grad(adversarial, parameters, retain_graph=True)
    task_norm = math.sqrt(sum(float(g.square().sum()) for g in task_gradients[:2]))
    adversarial_norm = math.sqrt(sum(float(g.square().sum()) for g in adversarial_gradients))
    expected = min(1.0, share * task_norm / adversarial_norm)
    applied = backward_balanced(task, adversarial, parameters, max_share=share)
    assert applied.item() == pytest.approx(expected, rel=1e-5)
    for parameter, task_gradient, gradient in zip(parameters, task_gradients, adversarial_gradients, strict=False):
        torch.testing.assert_close(parameter.grad, task_gradient + expected * gradient, rtol=1e-5, atol=1e-8)
    for parameter, task_gradient in zip(head.parameters(), task_gradients[2:], strict=True):
        torch.testing.assert_close(parameter.grad, task_gradient)


def test_without_a_share_the_gradients_are_added_as_they_are() -> None:
    torch.manual_seed(0)
    encoder, head = nn.Linear(3, 4).double(), nn.Linear(4, 2).double()
    task, adversarial = losses(encoder, head, 10.0)
    expected = torch.autograd.grad(task + adversarial, list(encoder.parameters()), retain_graph=True)
    assert backward_balanced(task, adversarial, encoder.parameters(), max_share=None).item() == 1.0
    for parameter, gradient in zip(encoder.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_without_a_task_gradient_the_encoder_stays() -> None:
    encoder = nn.Linear(3, 4)
    other = nn.Parameter(torch.ones(()))
    factor = backward_balanced(other.square(), encoder(torch.ones(2, 3)).sum(), encoder.parameters())
    assert factor.item() == 0.0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in encoder.parameters())


def test_a_vanishing_adversarial_gradient_is_not_blown_up() -> None:
    encoder, head = nn.Linear(3, 4).double(), nn.Linear(4, 2).double()
    task, adversarial = losses(encoder, head, 0.0)
    assert backward_balanced(task, adversarial, encoder.parameters()).item() == 1.0


def test_pairing_keeps_its_precision_under_autocast() -> None:
    features_BD, targets_MD = unit_rows(8, 16).float(), unit_rows(8, 16, seed=1).float()
    expected = info_nce(features_BD, targets_MD)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(info_nce(features_BD, targets_MD), expected)


@pytest.mark.parametrize("share", [0.05, None])
def test_a_part_of_the_tasks_loss_that_is_given_apart_counts_as_the_rest(share: float | None) -> None:
    torch.manual_seed(0)
    encoder, head = nn.Linear(3, 4).double(), nn.Linear(4, 1).double()
    found = []
    for apart in (False, True):
        for module in (encoder, head):
            module.zero_grad()
        task, adversarial = losses(encoder, head, 10.0)
        joint = encoder(torch.ones(2, 3, dtype=torch.float64)).cos().sum()
        whole = task if apart else task + joint
        factor = backward_balanced(
            whole, adversarial, encoder.parameters(), joint_loss=joint if apart else None, max_share=share
        )
        found.append(
            [factor, *(p.grad.clone() for p in [*encoder.parameters(), *head.parameters()] if p.grad is not None)]
        )
    assert len(found[0]) == 5
    torch.testing.assert_close(found[1], found[0])
