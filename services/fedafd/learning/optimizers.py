"""Optimizers and seeds as the configuration says."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from fedafd.algorithm.optim import AdamP
from fedafd.domain.errors import ConfigurationError, FedafdError

__all__ = ["DivergedError", "check_loss", "choose_device", "cosine_factor", "make_optimizer", "steps_factor"]

OptimizerName = Literal["adamp", "adamw", "adam", "sgd"]


class DivergedError(FedafdError):
    """Training lost its footing: a loss is not a finite number."""

    code = "diverged"


def check_loss(loss: Tensor, place: str) -> None:
    """Raise DivergedError naming the place unless the loss is finite."""
    if not bool(torch.isfinite(loss)):
        raise DivergedError(f"{place}: the loss is {float(loss)}; lower the learning rate, or look for broken samples")


def choose_device(name: str) -> torch.device:
    """`auto` is the first GPU that torch can use, else the CPU. Raises ConfigurationError for one that is not here."""
    if name != "auto":
        return _present(torch.device(name))
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _present(device: torch.device) -> torch.device:
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) < count:
            return device
        found = f"CUDA GPUs found by torch {torch.__version__}: {count or 'none'}"
    elif device.type == "mps":
        if torch.backends.mps.is_available():
            return device
        found = f"torch {torch.__version__} finds no Apple GPU"
    else:
        return device
    raise ConfigurationError(f"device: {device} is asked for, but it is not here ({found}); set device: auto or cpu")


def make_optimizer(
    name: OptimizerName, parameters: Iterable[Tensor], lr: float, weight_decay: float, momentum: float = 0.9
) -> torch.optim.Optimizer:
    """A fresh optimizer over `parameters`."""
    kept = list(parameters)
    if name == "sgd":
        return torch.optim.SGD(kept, lr=lr, momentum=momentum, weight_decay=weight_decay)
    kinds: dict[str, Any] = {"adamp": AdamP, "adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    made: torch.optim.Optimizer = kinds[name](kept, lr=lr, weight_decay=weight_decay)
    return made


def cosine_factor(round_number: int, rounds: int) -> float:
    """Cosine from 1 in round 1 to 0.01 after `rounds` rounds."""
    share = min(max(round_number - 1, 0) / rounds, 1.0)
    return max(0.5 * (1 + math.cos(math.pi * share)), 0.01)


def steps_factor(round_number: int, rounds: int) -> float:
    """1, then 0.1 from half of the rounds on, then 0.01 from 80 %."""
    done = (round_number - 1) / rounds
    return 1.0 if done < 0.5 else 0.1 if done < 0.8 else 0.01
