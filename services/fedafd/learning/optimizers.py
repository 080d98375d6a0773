"""Optimizers and seeds as the configuration says."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from fedafd.algorithm.optim import AdamP
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.process_errors import DivergedError

__all__ = [
    "LossCheck",
    "check_loss",
    "choose_device",
    "cosine_factor",
    "make_optimizer",
    "steps_factor",
]

_READ_EVERY = 32
OptimizerName = Literal["adamp", "adamw", "adam", "sgd"]


def check_loss(loss: Tensor, where: str) -> None:
    """Raise DivergedError naming the place unless the loss is finite."""
    if not bool(torch.isfinite(loss)):
        raise DivergedError(f"{where}: the loss is {float(loss)}; lower the learning rate, or look for broken samples")


class LossCheck:
    """check_loss of the steps at `where`: on the CPU of each at once, on another device of many together.

    Each look at a loss waits for the device. The state of a run that diverged is thrown away, so nothing is lost by
    hearing of it some steps later.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self._seen: Tensor | None = None
        self._unread = 0

    def add(self, loss: Tensor) -> None:
        """Take a step's loss. Raises DivergedError."""
        if loss.device.type == "cpu":
            check_loss(loss, self.where)
            return
        # In a sum, one that is not finite stays.
        loss = loss.detach()
        self._seen = loss if self._seen is None else self._seen + loss
        self._unread += 1
        if self._unread >= _READ_EVERY:
            self.read()

    def read(self) -> None:
        """Look at what was taken and not looked at; once more when training ends. Raises DivergedError."""
        seen, self._seen, self._unread = self._seen, None, 0
        if seen is not None:
            check_loss(seen, self.where)


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
        devices = f"CUDA GPUs found by torch {torch.__version__}: {count or 'none'}"
    elif device.type == "mps":
        if torch.backends.mps.is_available():
            return device
        devices = f"torch {torch.__version__} finds no Apple GPU"
    else:
        return device
    raise ConfigurationError(f"device: {device} is asked for, but it is not here ({devices}); set device: auto or cpu")


def make_optimizer(
    name: OptimizerName,
    parameters: Iterable[Tensor],
    lr: float,
    weight_decay: float,
    momentum: float = 0.9,
    *,
    recorded: bool = False,
) -> torch.optim.Optimizer:
    """A fresh optimizer over `parameters`, which are where they will be trained: on a GPU it is torch's fused one.

    `recorded`: its steps may be recorded there.
    """
    kept = list(parameters)
    # On a CPU the fused ones round otherwise.
    fused = {"fused": True} if kept and kept[0].device.type != "cpu" else {}
    if name == "sgd":
        return torch.optim.SGD(kept, lr=lr, momentum=momentum, weight_decay=weight_decay, **fused)
    kinds: dict[str, Any] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    if name == "adamp":
        return AdamP(kept, lr=lr, weight_decay=weight_decay, capturable=recorded and bool(fused))
    if fused and recorded:
        fused["capturable"] = True
    optimizer: torch.optim.Optimizer = kinds[name](kept, lr=lr, weight_decay=weight_decay, **fused)
    return optimizer


def cosine_factor(round_number: int, rounds: int) -> float:
    """Cosine from 1 in round 1 to 0.01 after `rounds` rounds."""
    share = min(max(round_number - 1, 0) / rounds, 1.0)
    return max(0.5 * (1 + math.cos(math.pi * share)), 0.01)


def steps_factor(round_number: int, rounds: int) -> float:
    """1, then 0.1 from half of the rounds on, then 0.01 from 80 %."""
    done = (round_number - 1) / rounds
    return 1.0 if done < 0.5 else 0.1 if done < 0.8 else 0.01
