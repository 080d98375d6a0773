"""What a task has to say: how features become outputs, what they cost, and what they are worth.

A task holds no weights and no state: it makes the module that learns (`make_head`, `make_contrast`), which the client's
model keeps. Shape legend: B a batch, n samples of a split, C classes, D embedding dimension, V views of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from fedafd.domain.config import ClientTrainingConfig
from fedafd.domain.kinds import ClientKind, Modality

__all__ = ["LabelTask", "Metric", "PairTask", "Scored", "Task"]


class Metric(NamedTuple):
    """The metric that rounds, gates and branches are chosen by; higher is better."""

    name: str
    """Its key among `score`'s metrics."""
    highest: float = 100.0
    """Its best value; 100 for a percentage."""


Scored = tuple[dict[str, float], Tensor]
"""Metrics by name, and each sample's part of the task's own one [n]: their mean is that metric."""


class Task(Protocol):
    """What all tasks have. Attributes of the class are enough."""

    kinds: frozenset[ClientKind]
    """The kinds of clients that it serves: image and text, or pair."""
    title: str
    """What it is called in a model's card, after its kind: `classification`."""
    metric: Metric


class LabelTask(Task, Protocol):
    """A task of image or text clients, whose samples have labels."""

    several_labels: bool
    """Whether labels are sets, [n, C] of 0 and 1; else the number of one class each, [n]."""

    def make_head(self, dim: int, num_labels: int) -> Any:
        """A fresh module that makes logits [B, C] of features [B, D], drawn from torch's global generator.

        All that it learns is one parameter, `free_weight`, with a row per label.
        """

    def loss(self, logits_BC: Tensor, labels: Tensor) -> Tensor:
        """A batch's mean loss, a scalar. It may not wait for a device."""

    def head_loss(self, head: Any, client: ClientTrainingConfig) -> Tensor | None:
        """What the head costs by itself, whatever it is asked; None for nothing."""

    def losses(self, head: Any, views: Sequence[Tensor], labels: Tensor) -> Tensor:
        """`loss` of several features of the same batch [B, D], in one pass [V]; for GPUs."""

    def score(self, logits: Tensor, labels: Tensor, trained: Tensor) -> Scored:
        """Of `logits` [n, C]; `trained`: the labels of the training split."""

    def pool(self, logits: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """Logits of the branches together [n, C]; a weight of 1 gives that branch."""

    def fit_pool(self, logits: Sequence[Tensor], labels: Tensor, trained: Tensor) -> Sequence[float]:
        """The weights of the branches that validation samples bear out; the first must not lose by them.

        `trained`: the labels of the training split, whose classes may come more or less often than in validation.
        """

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of each label [n, C]."""


class PairTask(Task, Protocol):
    """A task of pair clients, which have images with captions and no labels."""

    def make_contrast(self, client: ClientTrainingConfig) -> nn.Module:
        """A fresh module with whatever the loss learns."""

    def loss(self, contrast: Any, image: Tensor, text: Tensor) -> Tensor:
        """A batch's mean loss, a scalar; row i of `image` [B, D] belongs to row i of `text`. Rows have any length."""

    def losses(self, contrast: Any, images: Sequence[Tensor], texts: Sequence[Tensor]) -> Tensor:
        """`loss` of several features of the same batch, in one pass [V]; for GPUs."""

    def score(self, features: Mapping[Modality, Tensor], image_of_text: Tensor) -> Scored:
        """Of features [n, D] and [Q, D] by modality; caption q describes image `image_of_text[q]`."""
