"""AdamP: Adam that takes the radial part out of the step of scale-invariant weights.

Source: arXiv 2006.08217 (ICLR 2021): momentum makes the norm of weights before a normalisation grow, which slows their
effective step; a weight whose gradient is nearly at right angles to it is taken for scale invariant, and its update
and weight decay are treated accordingly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from fedafd.algorithm.adamp_on_device import step_matrices
from fedafd.domain.process_errors import InvalidOptimizerError

__all__ = ["AdamP"]


class AdamP(Optimizer):
    """AdamP with decoupled weight decay.

    `delta`: threshold of the cosine between gradient and weight, over the square root of the weight's size.
    `weight_decay_ratio`: factor on the weight decay of weights found scale invariant. Vectors (biases, normalisation)
    are never projected. `capturable`: on a GPU no number of a step is the host's, so that a step can be recorded.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        delta: float = 0.1,
        weight_decay_ratio: float = 0.1,
        capturable: bool = False,
    ) -> None:
        if not lr >= 0 or not eps > 0 or not weight_decay >= 0 or not all(0 <= beta < 1 for beta in betas):
            raise InvalidOptimizerError(
                f"AdamP: expected lr and weight_decay from 0, eps above 0, betas in 0..1 (below 1); got lr={lr}, "
                f"weight_decay={weight_decay}, eps={eps}, betas={betas}"
            )
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "delta": delta,
                "weight_decay_ratio": weight_decay_ratio,
                "capturable": capturable,
            },
        )

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of every parameter that has a gradient. `closure` evaluates the loss anew."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        for parameter in parameters:
            self._start(parameter, group)
        waits = [parameter for parameter in parameters if parameter.device.type != "cpu"]
        if waits:
            self._step_on_device(waits, group)
            parameters = [parameter for parameter in parameters if parameter.device.type == "cpu"]
        rows = _invariant_rows(parameters, group["delta"], group["eps"])
        plain = [parameter for parameter, row in zip(parameters, rows, strict=True) if not row]
        # Most weights are not projected: torch's fused kernel takes a ninth of the time of the operations below.
        for _, batch in groupby(plain, key=lambda parameter: (str(parameter.device), parameter.dtype)):
            self._update_plain(list(batch), group)
        for parameter, row in zip(parameters, rows, strict=True):
            if row:
                self._update_projected(parameter, group, row)

    def _step_on_device(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """The same step, without a question to the device."""

        def kind(parameter: Tensor) -> tuple[bool, str, str]:
            return parameter.dim() > 1, str(parameter.device), str(parameter.dtype)

        for (is_matrix, _, _), batch in groupby(sorted(parameters, key=kind), key=kind):
            matrices = list(batch)
            if is_matrix:
                step_matrices(matrices, [self.state[parameter] for parameter in matrices], group)
            else:
                self._update_plain(matrices, group)

    def _start(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        # Of a matrix on a GPU the host counts the steps; torch's fused kernel has them where the parameter is.
        step_device = parameter.device if parameter.dim() < 2 or group["capturable"] else torch.device("cpu")
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=step_device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] = state["step"].to(step_device)

    def _update_plain(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        adamw(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [self.state[parameter]["exp_avg"] for parameter in parameters],
            [self.state[parameter]["exp_avg_sq"] for parameter in parameters],
            [],
            [self.state[parameter]["step"] for parameter in parameters],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _update_projected(self, parameter: Tensor, group: dict[str, Any], rows: int) -> None:
        """Step one parameter as `rows` scale-invariant vectors."""
        gradient, state = parameter.grad, self.state[parameter]
        state["step"] += 1
        step = int(state["step"])
        beta1, beta2 = group["betas"]
        mean = state["exp_avg"].mul_(beta1).add_(gradient, alpha=1 - beta1)
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        update = mean / square.sqrt().div_(math.sqrt(1 - beta2**step)).add_(group["eps"])
        update = _tangential(parameter.reshape(rows, -1), update.reshape(rows, -1), group["eps"]).view_as(parameter)
        parameter.mul_(1 - group["lr"] * group["weight_decay"] * group["weight_decay_ratio"])
        parameter.add_(update, alpha=-group["lr"] / (1 - beta1**step))


def _invariant_rows(parameters: list[Tensor], delta: float, eps: float) -> list[int]:
    """As how many scale-invariant vectors to treat each parameter: each of its rows, 1 for the whole, 0 for none."""
    cosines = [_cosines(parameter, eps) for parameter in parameters if parameter.dim() > 1]
    # One question to the device for all, not one per weight.
    answers = iter(torch.stack(cosines).tolist() if cosines else [])
    rows = []
    for parameter in parameters:
        by_row, whole = next(answers) if parameter.dim() > 1 else (1.0, 1.0)
        if parameter.dim() > 1 and by_row < delta / math.sqrt(parameter[0].numel()):
            rows.append(len(parameter))
        else:
            rows.append(int(parameter.dim() > 1 and whole < delta / math.sqrt(parameter.numel())))
    return rows


def _cosines(parameter: Tensor, eps: float) -> Tensor:
    """Cosine between weight and gradient, absolute, [2]: the largest over the rows, and of the whole."""
    assert parameter.grad is not None
    weight_rows, gradient_rows = parameter.flatten(1), parameter.grad.flatten(1)
    dots = (weight_rows * gradient_rows).sum(dim=1)
    weight_norms, gradient_norms = weight_rows.norm(dim=1), gradient_rows.norm(dim=1)
    by_row = dots.abs() / (weight_norms.clamp(min=eps) * gradient_norms.clamp(min=eps))
    whole = dots.sum().abs() / (weight_norms.norm().clamp(min=eps) * gradient_norms.norm().clamp(min=eps))
    return torch.stack([by_row.max(), whole])


def _tangential(weight_rows: Tensor, update_rows: Tensor, eps: float) -> Tensor:
    """The update rows without their part along the weight rows."""
    unit: Tensor = weight_rows / weight_rows.norm(dim=1, keepdim=True).clamp(min=eps)
    return update_rows - unit * (unit * update_rows).sum(dim=1, keepdim=True)
