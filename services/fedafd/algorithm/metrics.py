"""Evaluation in percent: recall of cross-modal retrieval and accuracy of classification.

Ties count against the model: a wrong candidate whose similarity equals the right one's ranks before it, so that an
encoder that has collapsed to one point scores 0, not 100. Equal, for recall, means within 8 rounding units of the
norms' product (fedafd.algorithm.ranks); for accuracy, exactly.
Shape legend: I images, T texts (captions), D embedding dimension, C classes, B samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedafd.algorithm.checks import InvalidTensorError, check_finite, check_labels, check_shape, compute_dtype
from fedafd.algorithm.ranks import retrieval_ranks

__all__ = [
    "accuracy_at_k",
    "accuracy_scores",
    "class_weights",
    "fold_recall_at_k",
    "own_accuracy_at_k",
    "recall_at_k",
    "rsum",
    "scored_recall_at_k",
]


@torch.no_grad()
def recall_at_k(
    image_reps: Tensor, text_reps: Tensor, image_of_text: Tensor, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Recall in percent, both directions: {"i2t_r1": ..., "t2i_r10": ...}.

    `image_reps` [I, D], `text_reps` [T, D]; `image_of_text[j]` is the row of the image that caption j describes.
    Similarity is the dot product (the cosine, for unit rows). i2t: share of images with any of their captions in the
    top k; t2i: share of captions with their image there. Raises InvalidTensorError for shapes that do not fit, NaN,
    an index out of range, an image without a caption, or k below 1.
    """
    return scored_recall_at_k(image_reps, text_reps, image_of_text, ks)[0]


@torch.no_grad()
def scored_recall_at_k(
    image_reps: Tensor, text_reps: Tensor, image_of_text: Tensor, ks: Sequence[int] = (1, 5, 10)
) -> tuple[dict[str, float], Tensor]:
    """recall_at_k, and each image's part of rsum, with its captions', in percent [I]: the mean over images is rsum."""
    images, texts, owner_T = _checked(image_reps, text_reps, image_of_text)
    _check_ks(ks)
    ranks_I, ranks_T = retrieval_ranks(images, texts, owner_T, max(ks))
    hits_I = torch.stack([ranks_I < k for k in ks]).sum(dim=0).double()
    hits_T = torch.stack([ranks_T < k for k in ks]).sum(dim=0).double()
    scores_I = 100.0 * hits_I.index_add(0, owner_T, hits_T * (len(images) / len(texts)))
    return _shares("i2t_r", ranks_I, ks) | _shares("t2i_r", ranks_T, ks), scores_I


@torch.no_grad()
def fold_recall_at_k(
    image_reps: Tensor, text_reps: Tensor, image_of_text: Tensor, ks: Sequence[int] = (1, 5, 10), *, folds: int = 5
) -> dict[str, float]:
    """Mean recall over `folds` equal runs of consecutive images, each with its captions: 5K images give 1K five-fold.

    Raises InvalidTensorError as recall_at_k does, and where the images do not divide into the folds.
    """
    images, texts, owner_T = _checked(image_reps, text_reps, image_of_text)
    if folds < 1 or len(images) % folds:
        raise InvalidTensorError(f"folds: {len(images)} images do not divide into {folds} equal folds")
    size = len(images) // folds
    results = []
    for start in range(0, len(images), size):
        inside_T = (owner_T >= start) & (owner_T < start + size)
        results.append(recall_at_k(images[start : start + size], texts[inside_T], owner_T[inside_T] - start, ks))
    return {name: sum(result[name] for result in results) / folds for name in results[0]}


def rsum(metrics: Mapping[str, float]) -> float:
    """Sum of all recalls of a recall_at_k result: 0 to 600 for the default ks."""
    return sum(value for name, value in metrics.items() if name.startswith(("i2t_r", "t2i_r")))


@torch.no_grad()
def accuracy_at_k(logits: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5)) -> dict[str, float]:
    """Share in percent of samples whose class is among the k largest logits: {"acc1": ..., "acc5": ...}.

    `logits` [B, C], `labels` [B]. With C <= k it is 100. Raises InvalidTensorError for shapes that do not fit, NaN, a
    label out of range, or k below 1.
    """
    _check_ks(ks)
    return _shares("acc", _class_ranks(logits, labels), ks)


@torch.no_grad()
def accuracy_scores(logits: Tensor, labels: Tensor) -> Tensor:
    """100 for each sample whose class has the largest logit, else 0 [B]: the mean is acc1. As accuracy_at_k else."""
    return 100.0 * (_class_ranks(logits, labels) < 1).double()


@torch.no_grad()
def own_accuracy_at_k(
    logits: Tensor, labels: Tensor, class_counts: Tensor, ks: Sequence[int] = (1, 5)
) -> dict[str, float]:
    """accuracy_at_k as if classes came as often as in `class_counts` [C], a client's own training labels.

    Each sample weighs its class's share there over its share in `labels`; a class without samples here is left out.
    0 when no class is left. Raises InvalidTensorError as accuracy_at_k does.
    """
    _check_ks(ks)
    ranks_B = _class_ranks(logits, labels)
    check_shape("class_counts", class_counts.double(), logits.shape[1])
    weight_B = class_weights(labels.to(logits.device), class_counts)
    total = float(weight_B.sum())
    return {f"acc{k}": 100.0 * float(weight_B[ranks_B < k].sum()) / total if total else 0.0 for k in ks}


def class_weights(labels: Tensor, class_counts: Tensor) -> Tensor:
    """What each sample weighs [B] for classes to come as often as in `class_counts` [C]; `labels` [B] below C."""
    labels = labels.long()
    present_C = torch.bincount(labels, minlength=len(class_counts)).double()
    weight_B: Tensor = (class_counts.to(present_C) / present_C.clamp(min=1))[labels]
    return weight_B


def _class_ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """How many wrong classes come before each sample's own [B]."""
    check_shape("logits", logits, None, None)
    check_finite("logits", logits)
    check_labels("labels", labels, *logits.shape)
    return (logits >= logits.gather(1, labels.to(logits.device).long()[:, None])).sum(dim=1) - 1


def _shares(prefix: str, ranks: Tensor, ks: Sequence[int]) -> dict[str, float]:
    return {f"{prefix}{k}": 100.0 * int((ranks < k).sum()) / len(ranks) for k in ks}


def _checked(image_reps: Tensor, text_reps: Tensor, image_of_text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    check_shape("image_reps", image_reps, None, None)
    check_shape("text_reps", text_reps, None, image_reps.shape[1])
    check_finite("image_reps", image_reps)
    check_finite("text_reps", text_reps)
    check_labels("image_of_text", image_of_text, len(text_reps), len(image_reps))
    captions_I = torch.bincount(image_of_text.long(), minlength=len(image_reps))
    if not bool((captions_I > 0).all()):
        missing = (captions_I == 0).nonzero().flatten().tolist()
        raise InvalidTensorError(
            f"image_of_text: {len(missing)} of {len(image_reps)} images have no caption, the first is row "
            f"{missing[0]}; leave them out of image_reps"
        )
    dtype = compute_dtype(image_reps, text_reps)
    return image_reps.to(dtype), text_reps.to(dtype), image_of_text.to(image_reps.device).long()


def _check_ks(ks: Sequence[int]) -> None:
    if not ks or any(k < 1 for k in ks):
        raise InvalidTensorError(f"ks: expected one or more numbers from 1, got {tuple(ks)}")
