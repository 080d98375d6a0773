"""`retrieval`: images and captions find each other. The soft contrastive loss, and recall both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from fedafd.algorithm.at_once import contrast_losses
from fedafd.algorithm.contrastive import SoftContrastiveLoss
from fedafd.domain.config import ClientTrainingConfig
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.learning.scoring import score_pairs
from fedafd.learning.tasks.base import Metric, Scored

__all__ = ["Retrieval"]


class Retrieval:
    """Of pair clients."""

    kinds = frozenset({ClientKind.PAIR})
    title = "image-text retrieval"
    metric = Metric("rsum", 600.0)

    def make_contrast(self, client: ClientTrainingConfig) -> nn.Module:
        """The loss's scale and shift are learned."""
        return SoftContrastiveLoss(client.loss_scale)

    def loss(self, contrast: Any, image: Tensor, text: Tensor) -> Tensor:
        """Of unit rows."""
        total: Tensor = contrast(F.normalize(image, dim=-1), F.normalize(text, dim=-1))
        return total / len(image)

    def losses(self, contrast: Any, images: Sequence[Tensor], texts: Sequence[Tensor]) -> Tensor:
        """Of unit rows."""
        return contrast_losses(contrast, images, texts) / len(images[0])

    def score(self, features: Mapping[Modality, Tensor], image_of_text: Tensor) -> Scored:
        """Recalls and their sum."""
        return score_pairs(features, image_of_text)
