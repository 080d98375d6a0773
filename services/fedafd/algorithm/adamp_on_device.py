"""AdamP's step of all matrices at once, for a GPU: the number of operators does not depend on that of the matrices.

Which weights are scale invariant is decided on the device, so that the host never waits for the answer. Matrices lie
end to end in one vector; sums of rows and of matrices are sums of its segments. On a CPU fedafd.algorithm.optim asks
weight by weight, which is faster there. The two agree to float error.
Shape legend: P matrices, R rows of all of them, T numbers of all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["step_matrices"]

_PORTION = 1 << 25
"""Numbers taken at once: bounds the memory for copies to about a gigabyte."""


class _Layout(NamedTuple):
    """Rows of each matrix [P], width of each row [R]; limits of the cosines [P]; numbers in each matrix."""

    rows: Tensor
    widths: Tensor
    row_limit: Tensor
    whole_limit: Tensor
    sizes: tuple[int, ...]


def step_matrices(parameters: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any]) -> None:
    """One step of parameters of two dimensions or more, of one dtype, on one device, all with gradients.

    Each state's `step` is on the CPU, or with `capturable` where the parameters are.
    """
    torch._foreach_add_([state["step"] for state in states], 1.0)
    steps = [0 if group["capturable"] else int(state["step"]) for state in states]
    for portion in _portions(parameters, steps):
        _step([parameters[i] for i in portion], [states[i] for i in portion], group)


def _portions(parameters: list[Tensor], steps: list[int]) -> Iterator[list[int]]:
    """Indices of parameters of as many steps each, not too many numbers in one portion."""
    for step in sorted(set(steps)):
        portion: list[int] = []
        taken = 0
        for index, parameter in enumerate(parameters):
            if steps[index] != step:
                continue
            if portion and taken + parameter.numel() > _PORTION:
                yield portion
                portion, taken = [], 0
            portion.append(index)
            taken += parameter.numel()
        yield portion


def _step(parameters: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any]) -> None:
    beta1, beta2 = group["betas"]
    lr, decay, eps = group["lr"], group["weight_decay"], group["eps"]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    weight_T, gradient_T = _flat(parameters), _flat(gradients)
    shapes = tuple(tuple(parameter.shape) for parameter in parameters)
    layout = _layout(shapes, group["delta"], parameters[0].device)
    if group["capturable"]:
        update_T, correction = _corrected_updates(gradients, states, layout, beta1, beta2, eps), 1.0
    else:
        step = int(states[0]["step"])
        update_T, correction = _flat(_updates(gradients, states, beta1, beta2, eps, step)), 1 - beta1**step
    by_row_P, whole_P, square_R, square_P = _invariant(weight_T, gradient_T, layout, eps)
    # The part of the update along the weight, per square of the weight's norm.
    along_R = _sums(weight_T * update_T, layout.widths)
    of_whole_P = _sums(along_R, layout.rows) / square_P.clamp(min=eps * eps) * whole_P
    along_R = along_R / square_R.clamp(min=eps * eps) * _repeated(by_row_P.to(along_R), layout.rows, len(along_R))
    along_R += _repeated(of_whole_P, layout.rows, len(along_R))
    update_T -= weight_T * _repeated(along_R, layout.widths, len(weight_T))
    kept_P = torch.where(by_row_P | whole_P, 1 - lr * decay * group["weight_decay_ratio"], 1 - lr * decay)
    kept_R = _repeated(kept_P.to(weight_T), layout.rows, len(along_R))
    weight_T *= _repeated(kept_R, layout.widths, len(weight_T))
    weight_T.add_(update_T, alpha=-lr / correction)
    pieces = weight_T.split(layout.sizes)
    torch._foreach_copy_(
        parameters, [piece.view(parameter.shape) for piece, parameter in zip(pieces, parameters, strict=True)]
    )


def _updates(
    gradients: list[Tensor], states: list[dict[str, Any]], beta1: float, beta2: float, eps: float, step: int
) -> list[Tensor]:
    """Adam's, before the learning rate; the moments move in place."""
    means, squares = _moved_moments(gradients, states, beta1, beta2)
    roots = torch._foreach_sqrt(squares)
    torch._foreach_div_(roots, math.sqrt(1 - beta2**step))
    torch._foreach_add_(roots, eps)
    return list(torch._foreach_div(means, roots))


def _corrected_updates(
    gradients: list[Tensor], states: list[dict[str, Any]], layout: _Layout, beta1: float, beta2: float, eps: float
) -> Tensor:
    """As _updates, end to end, but divided by what corrects the first moment, too; the steps are on the device."""
    means, squares = _moved_moments(gradients, states, beta1, beta2)
    step_P = torch.stack([state["step"] for state in states]).double()
    root_T = _flat(torch._foreach_sqrt(squares))
    first_T, second_T = (
        _repeated(_repeated(correction_P, layout.rows, len(layout.widths)), layout.widths, len(root_T))
        for correction_P in ((1 - beta**step_P).to(root_T) for beta in (beta1, beta2))
    )
    return _flat(means) / (root_T / second_T.sqrt() + eps) / first_T


def _moved_moments(
    gradients: list[Tensor], states: list[dict[str, Any]], beta1: float, beta2: float
) -> tuple[list[Tensor], list[Tensor]]:
    means, squares = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
    torch._foreach_mul_(means, beta1)
    torch._foreach_add_(means, gradients, alpha=1 - beta1)
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)
    return means, squares


def _invariant(
    weight_T: Tensor, gradient_T: Tensor, layout: _Layout, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Whether each matrix is invariant by rows, else as a whole [P]; squares of the norms of rows [R], matrices [P]."""
    pairs = ((weight_T, gradient_T), (weight_T, weight_T), (gradient_T, gradient_T))
    dot_R, weight_R, gradient_R = (_sums(left * right, layout.widths) for left, right in pairs)
    dot_P, weight_P, gradient_P = (_sums(entries, layout.rows) for entries in (dot_R, weight_R, gradient_R))
    cosine_R = dot_R.abs() / (weight_R.sqrt().clamp(min=eps) * gradient_R.sqrt().clamp(min=eps))
    cosine_P = dot_P.abs() / (weight_P.sqrt().clamp(min=eps) * gradient_P.sqrt().clamp(min=eps))
    largest_P = torch.segment_reduce(cosine_R, "max", lengths=layout.rows, unsafe=True)
    by_row_P = largest_P < layout.row_limit
    return by_row_P, (cosine_P < layout.whole_limit) & ~by_row_P, weight_R, weight_P


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _sums(values: Tensor, lengths: Tensor) -> Tensor:
    # `unsafe`: that the lengths fit is known, and asking the device would wait for it.
    return torch.segment_reduce(values, "sum", lengths=lengths, unsafe=True)


def _repeated(values: Tensor, lengths: Tensor, size: int) -> Tensor:
    return torch.repeat_interleave(values, lengths, output_size=size)


@lru_cache(maxsize=64)
def _layout(shapes: tuple[tuple[int, ...], ...], delta: float, device: torch.device) -> _Layout:
    rows = [shape[0] for shape in shapes]
    widths = [math.prod(shape[1:]) for shape in shapes]
    sizes = tuple(math.prod(shape) for shape in shapes)
    return _Layout(
        torch.tensor(rows).to(device),
        torch.repeat_interleave(torch.tensor(widths), torch.tensor(rows)).to(device),
        torch.tensor([delta / math.sqrt(width) for width in widths]).to(device),
        torch.tensor([delta / math.sqrt(size) for size in sizes]).to(device),
        sizes,
    )
