"""Checks at the border of the algorithm: a bad tensor is refused with its name, what it is and what it must be."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedafd.domain.errors import RepresentationError

__all__ = [
    "InvalidTensorError",
    "check_finite",
    "check_labels",
    "check_positive",
    "check_same_shape",
    "check_shape",
    "compute_dtype",
]


class InvalidTensorError(RepresentationError, ValueError):
    """A tensor or number handed to the algorithm has a wrong shape, dtype, range or value."""


def check_shape(name: str, tensor: Tensor, *sizes: int | None) -> None:
    """Refuse a tensor that is not floating point of exactly these sizes; None stands for any size from 1."""
    if not isinstance(tensor, Tensor):
        raise InvalidTensorError(f"{name}: expected a tensor, got {type(tensor).__name__}", name=name)
    wanted = "[" + ", ".join("any" if size is None else str(size) for size in sizes) + "]"
    fits = tensor.dim() == len(sizes) and all(
        have == want if want is not None else have > 0 for have, want in zip(tensor.shape, sizes, strict=True)
    )
    if not fits:
        raise InvalidTensorError(f"{name}: expected shape {wanted}, got {list(tensor.shape)}", name=name)
    if not tensor.is_floating_point():
        raise InvalidTensorError(f"{name}: expected a floating-point tensor, got {tensor.dtype}", name=name)


def check_same_shape(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Refuse a tensor whose shape differs from another's."""
    if tensor.shape != other.shape:
        raise InvalidTensorError(
            f"{name} has shape {list(tensor.shape)}, but {other_name} has {list(other.shape)}; they must be equal",
            name=name,
        )


def check_finite(name: str, tensor: Tensor) -> None:
    """Refuse NaN and infinity, naming the first place. Waits for the device: not for every training step."""
    if tensor.numel() == 0 or _is_finite(tensor):
        return
    wrong = ~torch.isfinite(tensor)
    raise InvalidTensorError(
        f"{name}: {int(wrong.sum())} of {tensor.numel()} values are not finite, the first at index "
        f"{wrong.nonzero()[0].tolist()}",
        name=name,
    )


def _is_finite(tensor: Tensor) -> bool:
    low, high = torch.aminmax(tensor)  # NaN, if there is one
    if tensor.device.type == "cpu":  # where two numbers are quicker than three more operations
        return math.isfinite(low.item()) and math.isfinite(high.item())
    return bool(torch.isfinite(torch.stack((low, high))).all())


def check_labels(name: str, labels: Tensor, count: int, limit: int) -> None:
    """Refuse labels that are not `count` whole numbers in 0 .. limit - 1.

    Of labels on a GPU the values are left to it: they would have to be waited for, in every step.
    """
    if labels.dim() != 1 or labels.shape[0] != count:
        raise InvalidTensorError(f"{name}: expected shape [{count}], got {list(labels.shape)}", name=name)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InvalidTensorError(f"{name}: expected whole numbers, got {labels.dtype}", name=name)
    if labels.device.type != "cpu":
        return
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= limit:
        raise InvalidTensorError(f"{name}: expected values in 0..{limit - 1}, got {low}..{high}", name=name)


def check_positive(name: str, value: float) -> None:
    """Refuse a number that is not above zero and finite."""
    if not 0 < value < float("inf"):
        raise InvalidTensorError(f"{name}: expected a finite number above 0, got {value}", name=name)


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """The widest of the tensors' dtypes, float32 at least."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype
