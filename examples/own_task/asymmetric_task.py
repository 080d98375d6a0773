"""A task of one's own: `multi-label` with the asymmetric loss, for labels that most samples do not have.

Ridnik et al., arXiv 2009.14119: a label that is absent, and told so already, counts less and less, so that the few
samples with a label are not drowned by the many without. Head, metrics and predictions are those of `multi-label`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fedafd.domain.errors import ConfigurationError
from fedafd.learning.tasks import MultiLabel

__all__ = ["Asymmetric"]


class Asymmetric(MultiLabel):
    """Options: `focus`, how fast an absent label that is told right stops counting; `margin`, below which it does."""

    title = "multi-label classification by asymmetric loss"

    def __init__(self, options: dict[str, Any]) -> None:
        """Raises ConfigurationError for options that are not known or cannot be."""
        self.focus = float(options.pop("focus", 4.0))
        self.margin = float(options.pop("margin", 0.05))
        if options:
            raise ConfigurationError(f"task.options.{next(iter(options))}: asymmetric has focus and margin")
        if self.focus < 0 or not 0 <= self.margin < 1:
            raise ConfigurationError("task.options: focus must be 0 or more, margin from 0 to below 1")

    def loss(self, logits_BC: Tensor, labels: Tensor) -> Tensor:
        """The mean over samples and labels. With focus and margin 0 it is the binary cross-entropy."""
        wanted_BC = labels.to(logits_BC.dtype)
        absent_BC = (logits_BC.sigmoid() - self.margin).clamp(min=0)
        present = -wanted_BC * F.logsigmoid(logits_BC)
        absent = -(1 - wanted_BC) * absent_BC**self.focus * torch.log1p(-absent_BC.clamp(max=1 - 1e-6))
        return (present + absent).mean()
