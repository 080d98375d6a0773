"""AdamP against a loop over rows, against AdamW where nothing is projected, and its promise on scale invariance."""

from __future__ import annotations

import copy
import math
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.devices import DEVICES
from torch import Tensor, nn

from fedafd.algorithm import adamp_on_device
from fedafd.algorithm.optim import AdamP

Vector = list[float]


def dot(left: Vector, right: Vector) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def cosine(left: Vector, right: Vector) -> float:
    return abs(dot(left, right)) / (math.sqrt(dot(left, left) * dot(right, right)))


class OracleAdamP:
    """Algorithm 2 of arXiv 2006.08217 on a matrix in Python floats."""

    def __init__(self, weight: list[Vector], lr: float, decay: float, delta: float = 0.1, ratio: float = 0.1) -> None:
        self.weight, self.lr, self.decay, self.delta, self.ratio = weight, lr, decay, delta, ratio
        self.mean = [[0.0] * len(row) for row in weight]
        self.square = [[0.0] * len(row) for row in weight]
        self.steps = 0

    def step(self, gradient: list[Vector]) -> str:
        self.steps += 1
        update = []
        for i, row in enumerate(gradient):
            line = []
            for j, g in enumerate(row):
                self.mean[i][j] = 0.9 * self.mean[i][j] + 0.1 * g
                self.square[i][j] = 0.999 * self.square[i][j] + 0.001 * g * g
                mean = self.mean[i][j] / (1 - 0.9**self.steps)
                line.append(mean / (math.sqrt(self.square[i][j] / (1 - 0.999**self.steps)) + 1e-8))
            update.append(line)
        kind, update = self.projected(gradient, update)
        decay = self.decay * (1.0 if kind == "none" else self.ratio)
        for i, line in enumerate(update):
            self.weight[i] = [
                (1 - self.lr * decay) * w - self.lr * u for w, u in zip(self.weight[i], line, strict=True)
            ]
        return kind

    def projected(self, gradient: list[Vector], update: list[Vector]) -> tuple[str, list[Vector]]:
        flat_weight, flat_gradient = list(chain(*self.weight)), list(chain(*gradient))
        cosines = [cosine(w, g) for w, g in zip(self.weight, gradient, strict=True)]
        if max(cosines) < self.delta / math.sqrt(len(self.weight[0])):
            return "rows", [self.tangential(w, u) for w, u in zip(self.weight, update, strict=True)]
        if cosine(flat_weight, flat_gradient) < self.delta / math.sqrt(len(flat_weight)):
            flat = self.tangential(flat_weight, list(chain(*update)))
            width = len(self.weight[0])
            return "whole", [flat[start : start + width] for start in range(0, len(flat), width)]
        return "none", update

    @staticmethod
    def tangential(weight: Vector, update: Vector) -> Vector:
        radial = dot(weight, update) / dot(weight, weight)
        return [u - radial * w for w, u in zip(weight, update, strict=True)]


def gradient_of_kind(weight: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """A random gradient that is at right angles to each row, to the whole only, or to nothing."""
    gradient: Tensor = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    if kind == "none":
        return gradient + 2 * weight
    if kind == "rows":
        row_unit: Tensor = weight / weight.norm(dim=1, keepdim=True)
        return gradient - row_unit * (row_unit * gradient).sum(dim=1, keepdim=True)
    unit: Tensor = weight / weight.norm()
    gradient[0] += 3 * weight[0]
    return gradient - unit * (unit * gradient).sum()


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from(["rows", "whole", "none"]), min_size=1, max_size=6),
    st.sampled_from([0.0, 0.1]),
    st.integers(0, 10**6),
)
def test_equals_the_papers_algorithm(device: str, kinds: list[str], decay: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    parameter = nn.Parameter(torch.randn(3, 5, generator=generator, dtype=torch.float64).to(device))
    oracle = OracleAdamP(parameter.tolist(), lr=0.1, decay=decay)
    optimizer = AdamP([parameter], lr=0.1, weight_decay=decay)
    for kind in kinds:
        parameter.grad = gradient_of_kind(parameter.detach().cpu(), kind, generator).to(device)
        assert oracle.step(parameter.grad.tolist()) == kind
        optimizer.step()
        torch.testing.assert_close(parameter.detach().cpu(), torch.tensor(oracle.weight, dtype=torch.float64))


@pytest.mark.parametrize("capturable", [False, True], ids=["host-counts", "capturable"])
@pytest.mark.parametrize("portion", [1 << 24, 40], ids=["at-once", "in-portions"])
@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 7), st.booleans()), min_size=1, max_size=6),
    st.lists(st.sampled_from(["rows", "whole", "none"]), min_size=1, max_size=4),
    st.sampled_from([0.0, 0.1]),
    st.integers(0, 10**6),
)
def test_all_matrices_at_once_take_the_step_of_each_alone(
    portion: int, capturable: bool, shapes: list[tuple[int, int, bool]], kinds: list[str], decay: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    starts = [torch.randn(rows, width, generator=generator, dtype=torch.float64) for rows, width, _ in shapes]
    alone, together = ([nn.Parameter(start.clone()) for start in starts] for _ in range(2))
    optimizer = AdamP(alone, lr=0.1, weight_decay=decay)
    group = optimizer.param_groups[0] | {"capturable": capturable}
    states = [
        {"step": torch.zeros(()), "exp_avg": torch.zeros_like(start), "exp_avg_sq": torch.zeros_like(start)}
        for start in starts
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adamp_on_device, "_PORTION", portion)
        for number, kind in enumerate(kinds):
            # Some have no gradient in the first step, so that numbers of steps differ.
            held = [i for i, (_, _, late) in enumerate(shapes) if number or not late or i == 0]
            for i in range(len(shapes)):
                alone[i].grad = gradient_of_kind(alone[i].detach(), kind, generator) if i in held else None
                together[i].grad = alone[i].grad
            optimizer.step()
            chosen: list[torch.Tensor] = [together[i] for i in held]
            with torch.no_grad():
                adamp_on_device.step_matrices(chosen, [states[i] for i in held], group)
    for left, right in zip(alone, together, strict=True):
        torch.testing.assert_close(left, right)


def test_vectors_take_the_step_of_adamw() -> None:
    vectors = [nn.Parameter(torch.randn(7, generator=torch.Generator().manual_seed(0))) for _ in range(2)]
    optimizers = AdamP([vectors[0]], 0.01, weight_decay=0.1), torch.optim.AdamW([vectors[1]], 0.01, weight_decay=0.1)
    for _ in range(5):
        for vector, optimizer in zip(vectors, optimizers, strict=True):
            optimizer.zero_grad()
            torch.autograd.backward(vector.pow(3).sum())
            optimizer.step()
    torch.testing.assert_close(vectors[0], vectors[1])


@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (5, 6)])
def test_scale_invariant_weights_grow_less_than_under_adam(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    start, direction = torch.randn(shape), torch.randn(shape)

    def norm_after(optimizer_class: type[torch.optim.Optimizer]) -> float:
        weight = nn.Parameter(start.clone())
        optimizer = optimizer_class([weight], lr=0.05)  # type: ignore[call-arg]
        for _ in range(50):
            optimizer.zero_grad()
            torch.autograd.backward(-(weight / weight.norm() * direction).sum())
            optimizer.step()
        return float(weight.norm().item())

    assert norm_after(AdamP) < norm_after(torch.optim.Adam)


def test_state_round_trip_goes_on_bit_for_bit() -> None:
    torch.manual_seed(0)
    models = [nn.Linear(4, 3)]
    optimizers = [AdamP(models[0].parameters(), 0.01, weight_decay=0.1)]

    def step(model: nn.Module, optimizer: AdamP, seed: int) -> None:
        optimizer.zero_grad()
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))
        torch.autograd.backward(model(x).square().sum())
        optimizer.step()

    for seed in range(3):
        step(models[0], optimizers[0], seed)
    models.append(copy.deepcopy(models[0]))
    optimizers.append(AdamP(models[1].parameters(), 0.5))
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    for model, optimizer in zip(models, optimizers, strict=True):
        for seed in range(3, 6):
            step(model, optimizer, seed)
    assert torch.equal(models[0].weight, models[1].weight)
    assert torch.equal(models[0].bias, models[1].bias)


def test_zero_gradients_and_zero_weights_stay_finite() -> None:
    parameters = [nn.Parameter(torch.zeros(3, 4)), nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(2, 2))]
    optimizer = AdamP(parameters, 0.1)
    parameters[0].grad, parameters[1].grad = torch.ones(3, 4), torch.zeros(3, 4)
    optimizer.step()
    assert all(bool(torch.isfinite(parameter).all()) for parameter in parameters)
    assert torch.equal(parameters[2], torch.ones(2, 2))


def test_closure_gives_its_loss_and_learning_improves() -> None:
    parameter = nn.Parameter(torch.ones(3, 4))
    optimizer = AdamP([parameter], 0.1)

    def closure() -> float:
        optimizer.zero_grad()
        loss = (parameter - 2).square().sum()
        torch.autograd.backward(loss)
        return loss.item()

    first = optimizer.step(closure)
    for _ in range(50):
        last = optimizer.step(closure)
    assert first == 12.0
    assert last < 0.1


@pytest.mark.parametrize("options", [{"lr": -1.0}, {"eps": 0.0}, {"betas": (0.9, 1.0)}, {"weight_decay": math.nan}])
def test_bad_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="AdamP"):
        AdamP([nn.Parameter(torch.ones(2))], **options)  # type: ignore[arg-type]
