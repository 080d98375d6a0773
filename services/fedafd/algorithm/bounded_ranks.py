"""Ranks below a cap, from rounded products whose error is bounded: the same as from float32 products, but faster.

Recall at k asks only who ranks below k. Products of rounded rows tell that of nearly every query: by Cauchy-Schwarz a
product is off by no more than the norms of what rounding took away allow, and most candidates are farther from the
right one than that. First one pass over all pairs, of rows rounded to 8 bits, finds the queries before whose right
candidate there is nobody, of both directions. Of each query left, candidates are counted in bfloat16 until `cap` are
before the right one for sure; those too near to tell are multiplied again, in float32.
Shape legend: N queries, M candidates, D embedding dimension; R rows and C columns of one block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from fedafd.algorithm.similarity import has_bfloat16

__all__ = ["LEAST_DIM", "Side", "bounded_ranks", "has_rounded_products", "leave_out_own"]

_BLOCK = (1024, 2048)
"""Of the first pass: 8 MB of int32 products."""
_QUERY_BLOCK = (1024, 1024)
_ROWS = 2048
"""Rows that are rounded at once: they stay in cache on the way."""
_LEVELS = 127
LEAST_DIM = 16
"""With shorter rows nothing is gained."""
_MOST_PAIRS = 1 / 64
"""Above this share of a block, one float32 product of the block costs less than a product for each pair."""


@dataclass(frozen=True)
class Side:
    """One side of the retrieval: `reps` [N, D] and their `norms` [N].

    An image and its captions share a number in `group` [N] int64. `best` [N] is the similarity of a row's right
    candidate, the most similar one of its group; `least` [N] the least with which another one ranks before it.
    """

    reps: Tensor
    group: Tensor
    norms: Tensor
    best: Tensor
    least: Tensor


@cache
def has_rounded_products() -> bool:
    """True if the CPU multiplies int8 and bfloat16 in hardware, and this torch does so with int8 correctly.

    It is worth it: 5,000 images by 25,000 captions, the size of COCO's test set, take 0.10 s for the whole instead of
    0.55 s for the float32 product alone (docs/adr/0014).
    """
    capabilities = torch.cpu.get_capabilities()
    if not (capabilities.get("amx_int8") or capabilities.get("avx512_vnni")) or not has_bfloat16(torch.device("cpu")):
        return False
    # torch has no public int8 product, so this one may go, and is wrong for rows of one number (torch 2.13).
    left, right = (torch.arange(-127, count * LEAST_DIM - 127).view(count, LEAST_DIM) for count in (3, 5))
    try:
        product = torch._int_mm(left.to(torch.int8), right.to(torch.int8).T)
    except (AttributeError, RuntimeError):
        return False
    return torch.equal(product.long(), left @ right.T)


def leave_out_own(product_RC: Tensor, row_C: Tensor, least: float) -> None:
    """Captions are no rivals of their own image: their products become `least`. `row_C` is its row in the block [R, C],
    if it is there."""
    column = ((row_C >= 0) & (row_C < len(product_RC))).nonzero().flatten()
    product_RC[row_C[column], column] = least


def bounded_ranks(images: Side, texts: Side, cap: int) -> tuple[Tensor, Tensor]:
    """As retrieval_ranks, float32 on a CPU: of each image and each text the rivals at or above `least`, up to `cap`."""
    open_I, open_T = _first_pass(images, texts)
    if not len(open_I) and not len(open_T):
        return torch.zeros(len(images.reps), dtype=torch.int64), torch.zeros(len(texts.reps), dtype=torch.int64)
    halves = torch.bfloat16
    image, text = _Rounded.of(images, images.reps.to(halves)), _Rounded.of(texts, texts.reps.to(halves))
    return _Counting.of(image, text).count(open_I, cap), _Counting.of(text, image).count(open_T, cap)


@dataclass(frozen=True)
class _Rounded:
    """A side and its rounded rows: `reps` [N, D] times `step`; `lost` [N] are the norms of what rounding took."""

    side: Side
    reps: Tensor
    lost: Tensor
    step: float = 1.0

    @classmethod
    def of(cls, side: Side, reps: Tensor, step: float = 1.0) -> _Rounded:
        lost = side.norms.new_empty(len(reps))
        for start in range(0, len(reps), _ROWS):
            rows = slice(start, start + _ROWS)
            lost[rows] = torch.add(-side.reps[rows], reps[rows], alpha=step).norm(dim=1)
        return cls(side, reps, lost, step)

    @classmethod
    def to_int8(cls, side: Side) -> _Rounded:
        step = max(abs(float(extreme)) for extreme in side.reps.aminmax()) / _LEVELS
        reps_ND = torch.empty_like(side.reps, dtype=torch.int8)
        for start in range(0, len(reps_ND), _ROWS):
            reps_ND[start : start + _ROWS] = (side.reps[start : start + _ROWS] / step).round_()
        return cls.of(side, reps_ND, step)

    def errors(self, other: _Rounded) -> Tensor:
        """How far a product of each row [N] with any row of the other side may be off."""
        norm, lost = other.side.norms.max(), other.lost.max()
        # Beside the rounding of the rows there is that of float32 sums, at most D units of the norms' product each.
        sums = 4 * self.reps.shape[1] * torch.finfo(torch.float32).eps
        return self.side.norms * (lost + sums * norm) + self.lost * (norm + lost)


def _first_pass(images: Side, texts: Side) -> tuple[Tensor, Tensor]:
    """The images and the texts that have a rival which may be before the right candidate."""
    image, text = _Rounded.to_int8(images), _Rounded.to_int8(texts)
    none = torch.iinfo(torch.int32).min
    most_N, most_M = (torch.full((len(side.reps),), none, dtype=torch.int32) for side in (images, texts))
    rows, columns = _BLOCK
    block = most_N.new_empty(min(rows, len(most_N)) * min(columns, len(most_M)))
    for top in range(0, len(most_N), rows):
        for left in range(0, len(most_M), columns):
            image_RD, text_CD = image.reps[top : top + rows], text.reps[left : left + columns]
            product_RC = block[: len(image_RD) * len(text_CD)].view(len(image_RD), len(text_CD))
            torch._int_mm(image_RD, text_CD.T, out=product_RC)
            leave_out_own(product_RC, texts.group[left : left + columns] - top, none)
            most_R, most_C = most_N[top : top + rows], most_M[left : left + columns]
            torch.maximum(most_R, product_RC.amax(dim=1), out=most_R)
            torch.maximum(most_C, product_RC.amax(dim=0), out=most_C)
    unit = image.step * text.step
    open_I, open_T = (
        (most.double() * unit >= (side.side.least - side.errors(other)).double()).nonzero().flatten()
        for most, side, other in ((most_N, image, text), (most_M, text, image))
    )
    return open_I, open_T


@dataclass(frozen=True)
class _Counting:
    """Queries [N] of one side, candidates [M] of the other, both rounded to bfloat16.

    A rival whose rounded product is below `low` [N] is not before the right candidate; one above `high` [N] is.
    Both are rounded as the products are: rounding keeps the order.
    """

    queries: _Rounded
    candidates: _Rounded
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, queries: _Rounded, candidates: _Rounded) -> _Counting:
        error_N = queries.errors(candidates)
        low, high = (queries.side.least - error_N).bfloat16(), (queries.side.best + error_N).bfloat16()
        return cls(queries, candidates, low, high)

    def count(self, open_Q: Tensor, cap: int) -> Tensor:
        """Rivals before the right candidate [N], counted up to `cap`: 0 for queries that are not open."""
        rows, columns = _QUERY_BLOCK
        ranks_N = torch.zeros(len(self.low), dtype=torch.int64)
        for top in range(0, len(open_Q), rows):
            query_R = open_Q[top : top + rows]
            for left in range(0, len(self.candidates.reps), columns):
                ranks_N[query_R] += self._count_block(query_R, cap - ranks_N[query_R], left, left + columns)
                query_R = query_R[ranks_N[query_R] < cap]
                if not len(query_R):
                    break
        return ranks_N

    def _count_block(self, query_R: Tensor, missing_R: Tensor, left: int, right: int) -> Tensor:
        """Rivals from `left` to `right`; where `missing_R` are certain, only those that are certain."""
        product_RC = torch.mm(self.queries.reps[query_R], self.candidates.reps[left:right].T)
        is_before_RC = torch.empty_like(product_RC)

        def counted(compare: Callable[..., Tensor], limit_N: Tensor) -> Tensor:
            # Comparing into floats and summing those is several times faster than summing booleans (measured).
            compare(product_RC, limit_N[query_R, None], out=is_before_RC)
            return is_before_RC.sum(dim=1, dtype=torch.float32).long()

        sure_R = counted(torch.gt, self.high)
        near_R = counted(torch.ge, self.low) - sure_R
        asked = ((near_R > 0) & (sure_R < missing_R)).nonzero().flatten()
        if int(near_R[asked].sum()) > _MOST_PAIRS * product_RC.numel():
            sure_R[asked] = self._count_exactly(query_R[asked], left, right)
        elif len(asked):
            sure_R[asked] += self._count_near(product_RC[asked], query_R[asked], left)
        return sure_R

    def _count_exactly(self, query_R: Tensor, left: int, right: int) -> Tensor:
        queries, candidates = self.queries.side, self.candidates.side
        similar_RC = queries.reps[query_R] @ candidates.reps[left:right].T
        is_rival_RC = queries.group[query_R, None] != candidates.group[left:right]
        return ((similar_RC >= queries.least[query_R, None]) & is_rival_RC).sum(dim=1)

    def _count_near(self, product_RC: Tensor, query_R: Tensor, left: int) -> Tensor:
        queries, candidates = self.queries.side, self.candidates.side
        is_near_RC = (product_RC >= self.low[query_R, None]) & (product_RC <= self.high[query_R, None])
        row, column = is_near_RC.nonzero().unbind(dim=1)
        query, candidate = query_R[row], column + left
        similar = (queries.reps[query] * candidates.reps[candidate]).sum(dim=1)
        is_before = (similar >= queries.least[query]) & (queries.group[query] != candidates.group[candidate])
        return torch.zeros_like(query_R).index_add_(0, row, is_before.long())
