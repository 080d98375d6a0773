"""A split's metrics, and each sample's part of the one that rounds and gates are chosen by.

Shape legend: n samples, C classes, D embedding dimension, Q texts.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fedafd.algorithm.metrics import accuracy_at_k, accuracy_scores, own_accuracy_at_k, rsum, scored_recall_at_k
from fedafd.domain.kinds import Modality

__all__ = ["score_classes", "score_pairs"]


def score_classes(logits: Tensor, labels_n: Tensor, trained: Tensor) -> tuple[dict[str, float], Tensor]:
    """Accuracies in percent, and each sample's 100 or 0 [n], of `logits` [n, C].

    `trained`: the labels of the training split.
    """
    ks = (1, 5) if logits.shape[1] >= 5 else (1,)
    metrics = accuracy_at_k(logits, labels_n, ks=ks)
    own = torch.bincount(trained, minlength=logits.shape[1])
    metrics |= {f"own_{k}": v for k, v in own_accuracy_at_k(logits, labels_n, own, ks=(1,)).items()}
    return metrics, accuracy_scores(logits, labels_n)


def score_pairs(features: Mapping[Modality, Tensor], image_of_text: Tensor) -> tuple[dict[str, float], Tensor]:
    """Recalls in percent with their sum, and each pair's part of that; features [n, D] and [Q, D] by modality."""
    image, text = (nn.functional.normalize(features[m], dim=-1) for m in Modality)
    metrics, scores = scored_recall_at_k(image, text, image_of_text)
    return metrics | {"rsum": rsum(metrics)}, scores
