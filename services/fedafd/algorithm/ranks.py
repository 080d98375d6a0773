"""Ranks of cross-modal retrieval in both directions.

The similarities exist one block at a time; both directions are counted while the block is in cache, so that the whole
costs little more than its matrix product. Where the CPU multiplies int8 and bfloat16, large sets take a shorter way to
the same (fedafd.algorithm.bounded_ranks).
Shape legend: I images, T texts (captions), D embedding dimension; R rows and C columns of one block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedafd.algorithm.bounded_ranks import LEAST_DIM, Side, bounded_ranks, has_rounded_products, leave_out_own

__all__ = ["TIE_ULPS", "retrieval_ranks"]

TIE_ULPS = 8
"""Similarities nearer than this many rounding units are ties: the same pair may differ by that between two products."""

_CPU_BLOCK = (512, 2048)
"""Images and texts in work at once: 4 MB of float32 similarities, and as much for what is counted."""

_DEVICE_BLOCK = (4096, 4096)

_OWN_ROWS = 4096
"""Captions multiplied with their own images at once: they stay in cache on the way to the sum."""

_LEAST_PAIRS = 1 << 20
"""With fewer pairs of an image and a text, exact products everywhere are faster."""

_SMALLEST, _LARGEST = 1e-12, 1e12
"""The norm of the longest row has to lie between these for rounded products."""


@torch.no_grad()
def retrieval_ranks(images: Tensor, texts: Tensor, owner_T: Tensor, cap: int) -> tuple[Tensor, Tensor]:
    """Of each image the number of other images' captions before the best of its own [I], of each caption the number of
    other images before its own [T]; where that is `cap` or more, any number from `cap` to it.

    `images` [I, D] and `texts` [T, D] of one floating dtype, `owner_T` [T] the row of each caption's image; each image
    has a caption. A candidate is before the right one unless its similarity is smaller by more than TIE_ULPS times the
    dtype's epsilon times the norms' product (of the query, and of the longest candidate): ties count against the model.
    """
    image, text = _sides(images, texts, owner_T)
    if _rounds_well(image, text):
        return bounded_ranks(image, text, cap)
    rows, columns = _CPU_BLOCK if images.device.type == "cpu" else _DEVICE_BLOCK
    blocks = images.new_empty(2, min(rows, len(images)) * min(columns, len(texts)))
    ranks_I, ranks_T = (torch.zeros(len(side), dtype=torch.float64, device=side.device) for side in (images, texts))
    for top in range(0, len(images), rows):
        image_RD = images[top : top + rows]
        for left in range(0, len(texts), columns):
            text_CD = texts[left : left + columns]
            shape = (len(image_RD), len(text_CD))
            similar_RC, before_RC = (flat[: shape[0] * shape[1]].view(shape) for flat in blocks)
            torch.mm(image_RD, text_CD.T, out=similar_RC)
            leave_out_own(similar_RC, owner_T[left : left + columns] - top, -torch.inf)
            # Comparing into floats and summing those is several times faster than summing booleans (measured).
            torch.ge(similar_RC, image.least[top : top + rows, None], out=before_RC)
            ranks_I[top : top + rows] += before_RC.sum(dim=1)
            torch.ge(similar_RC, text.least[left : left + columns], out=before_RC)
            ranks_T[left : left + columns] += before_RC.sum(dim=0)
    return ranks_I.long(), ranks_T.long()


def _rounds_well(image: Side, text: Side) -> bool:
    reps = image.reps
    is_large = len(reps) * len(text.reps) >= _LEAST_PAIRS and reps.shape[1] >= LEAST_DIM
    if reps.device.type != "cpu" or reps.dtype != torch.float32 or not is_large or not has_rounded_products():
        return False
    # Bounds hold where nothing overflows, and nothing that counts underflows.
    return all(_SMALLEST < float(side.norms.max()) < _LARGEST for side in (image, text))


def _sides(images: Tensor, texts: Tensor, owner_T: Tensor) -> tuple[Side, Side]:
    own_T = texts.new_empty(len(texts))
    for start in range(0, len(texts), _OWN_ROWS):
        rows = slice(start, start + _OWN_ROWS)
        own_T[rows] = (texts[rows] * images[owner_T[rows]]).sum(dim=1)
    best_I = own_T.new_full((len(images),), -torch.inf).scatter_reduce(0, owner_T, own_T, "amax")
    unit = TIE_ULPS * torch.finfo(images.dtype).eps
    norms_I, norms_T = images.norm(dim=1), texts.norm(dim=1)
    least_I, least_T = best_I - unit * norms_I * norms_T.max(), own_T - unit * norms_T * norms_I.max()
    group_I = torch.arange(len(images), device=images.device)
    return Side(images, group_I, norms_I, best_I, least_I), Side(texts, owner_T, norms_T, own_T, least_T)
