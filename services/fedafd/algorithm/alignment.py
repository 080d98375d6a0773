"""Bi-level adversarial alignment (BAA) of a client's encoder to the global representations of the public set.

Source: FedAFD, arXiv 2603.04890. Discriminators give logits, so that the sigmoid is applied once, in the loss.
The pairing term and the gradient balance are options beyond the paper (pairing: the idea of CreamFL, arXiv 2302.08888).
Shape legend: B public samples of the batch, M candidates, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedafd.algorithm.at_once import fooling_loss, pairing_at_once, takes_at_once, telling_loss
from fedafd.algorithm.checks import InvalidTensorError, check_labels, check_positive, check_shape, compute_dtype
from fedafd.domain.kinds import Modality

__all__ = ["BiLevelAlignment", "Discriminator", "backward_balanced", "info_nce", "pairing_loss"]


class Discriminator(nn.Module):
    """MLP D -> hidden -> 1 with LeakyReLU(0.2): the logit that a representation is a global one."""

    def __init__(self, dim: int = 256, hidden: Sequence[int] = (128, 64)) -> None:
        super().__init__()
        widths = [dim, *hidden, 1]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for layer in (nn.Linear(*pair) for pair in pairwise(widths)):
            self.weights.append(layer.weight)
            self.biases.append(layer.bias)

    def forward(self, x_BD: Tensor, *, frozen: bool = False) -> Tensor:
        """Logits [B]. `frozen`: the gradient reaches `x_BD`, but not the weights."""
        hidden = x_BD
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if index:
                hidden = F.leaky_relu(hidden, 0.2)
            hidden = F.linear(hidden, weight.detach() if frozen else weight, bias.detach() if frozen else bias)
        return hidden.squeeze(-1)


class BiLevelAlignment(nn.Module):
    """The two discriminators of a client and the two losses of the game.

    `within` (D_in) tells features of a modality from the global representations of the same modality, `across` (D_cr)
    from those of the other. A pair client uses the same two for both of its modalities. `weight` is lambda.
    """

    def __init__(self, dim: int = 256, *, weight: float = 0.5, hidden: Sequence[int] = (128, 64)) -> None:
        super().__init__()
        self.dim = dim
        self.weight = weight
        self.within = Discriminator(dim, hidden)
        self.across = Discriminator(dim, hidden)

    def discriminator_loss(self, features: Mapping[Modality, Tensor], global_reps: Mapping[Modality, Tensor]) -> Tensor:
        """L_D, a scalar; its gradient reaches the discriminators only.

        `features`: the client's features [B, D] by modality, one or both; `global_reps`: I_g and T_g rows of the same
        public samples, always both. Raises InvalidTensorError for a missing modality or a wrong shape.
        """
        self._check(features)
        for real in (modality for feature in features for modality in (feature, feature.other)):
            if real not in global_reps:
                raise InvalidTensorError(f"global_reps: the modality {real.value} is missing; both are needed")
            check_shape(f"global_reps[{real.value}]", global_reps[real], None, self.dim)
        if takes_at_once(*features.values(), *global_reps.values()):
            reals = [[global_reps[m].detach() for m in features], [global_reps[m.other].detach() for m in features]]
            fakes = torch.cat([fake_BD.detach() for fake_BD in features.values()])
            return self.weight * telling_loss((self.within, self.across), reals, fakes)
        loss = torch.zeros((), device=self._device)
        for modality, fake_BD in features.items():
            for discriminator, real in ((self.within, modality), (self.across, modality.other)):
                loss = loss + _bce(discriminator(global_reps[real].detach()), 1.0)
                loss = loss + _bce(discriminator(fake_BD.detach()), 0.0)
        return self.weight * loss

    def encoder_loss(self, features: Mapping[Modality, Tensor]) -> Tensor:
        """L_adv, a scalar: both discriminators, frozen, should take the features for global ones."""
        self._check(features)
        if takes_at_once(*features.values()):
            return self.weight * fooling_loss((self.within, self.across), list(features.values()))
        loss = torch.zeros((), device=self._device)
        for feature_BD in features.values():
            loss = loss + _bce(self.within(feature_BD, frozen=True), 1.0)
            loss = loss + _bce(self.across(feature_BD, frozen=True), 1.0)
        return self.weight * loss

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device

    def _check(self, features: Mapping[Modality, Tensor]) -> None:
        if not features:
            raise InvalidTensorError("features: at least one modality is needed")
        for modality, feature_BD in features.items():
            check_shape(f"features[{modality.value}]", feature_BD, None, self.dim)


def _bce(logits_B: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits_B, torch.full_like(logits_B, target))


def info_nce(
    features_BD: Tensor, targets_MD: Tensor, positives_B: Tensor | None = None, *, temperature: float = 0.1
) -> Tensor:
    """Mean cross-entropy of picking each feature's own target among M, by cosine similarity over `temperature`.

    `positives_B`: the row of `targets_MD` that belongs to each feature; None: row i belongs to feature i, M = B.
    """
    check_positive("temperature", temperature)
    check_shape("features_BD", features_BD, None, None)
    check_shape("targets_MD", targets_MD, features_BD.shape[0] if positives_B is None else None, features_BD.shape[1])
    if positives_B is None:
        positives_B = torch.arange(len(features_BD), device=features_BD.device)
    else:
        check_labels("positives_B", positives_B, len(features_BD), len(targets_MD))
    dtype = compute_dtype(features_BD, targets_MD)
    # Divided by a small temperature, half precision would show: no autocast here.
    with torch.autocast(features_BD.device.type, enabled=False):
        cosine_BM = F.normalize(features_BD.to(dtype), dim=-1) @ F.normalize(targets_MD.to(dtype), dim=-1).T
        return F.cross_entropy(cosine_BM / temperature, positives_B)


def pairing_loss(
    features: Mapping[Modality, Tensor], global_reps: Mapping[Modality, Tensor], *, temperature: float = 0.1
) -> Tensor:
    """InfoNCE of each modality's features [B, D] against I_g and T_g of the same items; mean over all these terms.

    Aligns what the adversarial marginal cannot: which item is which.
    """
    if features and global_reps and takes_at_once(*features.values(), *global_reps.values()):
        check_positive("temperature", temperature)
        targets = [target_BD.detach() for target_BD in global_reps.values()]
        return pairing_at_once(list(features.values()), targets, temperature)
    terms = [
        info_nce(feature_BD, target_BD.detach(), temperature=temperature)
        for feature_BD in features.values()
        for target_BD in global_reps.values()
    ]
    if not terms:
        raise InvalidTensorError("pairing_loss: at least one modality of features and of global_reps is needed")
    return torch.stack(terms).mean()


def backward_balanced(
    task_loss: Tensor,
    adversarial_loss: Tensor,
    parameters: Iterable[nn.Parameter],
    *,
    joint_loss: Tensor | None = None,
    max_share: float | None = 0.05,
) -> Tensor:
    """Backward of both losses, the adversarial gradient's norm at most `max_share` of the task's.

    `parameters`: those that the two losses share (the encoder's); call with their gradients cleared. The task's
    gradient reaches every leaf as `task_loss.backward()` does, the adversarial one these parameters only. `joint_loss`:
    a part of the task's that these parameters alone bear, given apart for a GPU, where autograd would add up its
    gradient and the rest's weight by weight. `max_share` None adds the adversarial gradient as it is (the paper).
    Returns the factor applied, a scalar in 0 .. 1. Unbalanced, a tiny or a huge adversarial gradient destroys an
    encoder under Adam.
    """
    shared = [parameter for parameter in parameters if parameter.requires_grad]
    # The two losses may share a graph (features of one public batch), so the first pass keeps it.
    adversarial = torch.autograd.grad(adversarial_loss, shared, retain_graph=True, allow_unused=True)
    if task_loss.requires_grad:
        torch.autograd.backward(task_loss)
    if joint_loss is not None:
        _add_gradients(shared, torch.autograd.grad(joint_loss, shared, allow_unused=True))
    pairs = [
        (parameter, gradient) for parameter, gradient in zip(shared, adversarial, strict=True) if gradient is not None
    ]
    factor = torch.ones((), device=adversarial_loss.device)
    if max_share is not None and pairs:
        task_norm = _norm([parameter.grad for parameter in shared if parameter.grad is not None], factor)
        adversarial_norm = _norm([gradient for _, gradient in pairs], factor)
        factor = (max_share * task_norm / adversarial_norm.clamp(min=torch.finfo(torch.float32).tiny)).clamp(max=1.0)
    if pairs:
        _add_gradients([parameter for parameter, _ in pairs], torch._foreach_mul([part for _, part in pairs], factor))
    return factor


def _add_gradients(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    """Add to what the parameters have; None adds nothing."""
    given = [
        (parameter, gradient) for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is not None
    ]
    with_gradient = [(parameter.grad, gradient) for parameter, gradient in given if parameter.grad is not None]
    if with_gradient:
        torch._foreach_add_([grad for grad, _ in with_gradient], [gradient for _, gradient in with_gradient])
    for parameter, gradient in given:
        if parameter.grad is None:
            parameter.grad = gradient


def _norm(gradients: list[Tensor], like: Tensor) -> Tensor:
    if not gradients:
        return torch.zeros_like(like)
    total: Tensor = nn.utils.get_total_norm([gradient.detach().float() for gradient in gradients])
    return total
