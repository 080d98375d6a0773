"""AdamP: Adam that takes the radial part out of the step of scale-invariant weights.

Source: arXiv 2006.08217 (ICLR 2021): momentum makes the norm of weights before a normalisation grow, which slows their
effective step; a weight whose gradient is nearly at right angles to it is taken for scale invariant, and its update
and weight decay are treated accordingly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from fedafd.algorithm.checks import InvalidTensorError

__all__ = ["AdamP"]


class AdamP(Optimizer):
    """AdamP with decoupled weight decay.

    `delta`: threshold of the cosine between gradient and weight, over the square root of the weight's size.
    `weight_decay_ratio`: factor on the weight decay of weights found scale invariant. Vectors (biases, normalisation)
    are never projected.
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
    ) -> None:
        if not lr >= 0 or not eps > 0 or not weight_decay >= 0 or not all(0 <= beta < 1 for beta in betas):
            raise InvalidTensorError(
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
            },
        )

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of every parameter that has a gradient. `closure` evaluates the loss again, as in every optimizer."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        step = int(state["step"])
        beta1, beta2 = group["betas"]
        mean = state["exp_avg"].mul_(beta1).add_(gradient, alpha=1 - beta1)
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = square.sqrt().div_(math.sqrt(1 - beta2**step)).add_(group["eps"])
        update = mean / scale
        decay = group["weight_decay"]
        if parameter.dim() > 1:
            update, invariant = _project(parameter, gradient, update, group["delta"], group["eps"])
            decay *= group["weight_decay_ratio"] if invariant else 1.0
        parameter.mul_(1 - group["lr"] * decay)
        parameter.add_(update, alpha=-group["lr"] / (1 - beta1**step))


def _project(weight: Tensor, gradient: Tensor, update: Tensor, delta: float, eps: float) -> tuple[Tensor, bool]:
    """The update without its radial part, by row if every row is scale invariant, else as a whole if that is."""
    for rows in (weight.shape[0], 1):
        weight_rows, gradient_rows = weight.reshape(rows, -1), gradient.reshape(rows, -1)
        norms = weight_rows.norm(dim=1, keepdim=True).clamp(min=eps)
        dots = (weight_rows * gradient_rows).sum(dim=1, keepdim=True).abs()
        cosines = dots / (norms * gradient_rows.norm(dim=1, keepdim=True).clamp(min=eps))
        if float(cosines.max()) < delta / math.sqrt(weight_rows.shape[1]):
            unit = weight_rows / norms
            update_rows = update.reshape(rows, -1)
            tangential = update_rows - unit * (unit * update_rows).sum(dim=1, keepdim=True)
            return tangential.reshape(update.shape), True
    return update, False
