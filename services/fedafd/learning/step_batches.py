"""What the steps of local training take: drawn on the host in the order of the steps, and sent to the site's device.

Shape legend: B samples of the batch, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from fedafd.domain.kinds import Modality
from fedafd.learning.feeding import sent

if TYPE_CHECKING:
    from fedafd.learning.local_site import LocalSite

__all__ = [
    "PrivateBatch",
    "PublicBatch",
    "StepBatch",
    "epoch_batches",
    "private_batch",
    "private_steps",
    "warm_batches",
]


class PrivateBatch(NamedTuple):
    """Samples of the training split."""

    rows: dict[Modality, Tensor]
    frozen: dict[Modality, Tensor]
    """The global features of the same samples [B, D]; zeros where no fusion reads them."""
    labels: Tensor | None


class PublicBatch(NamedTuple):
    """Samples of the public set, and where in it they are [B]."""

    rows: dict[Modality, Tensor]
    public_rows: Tensor


class StepBatch(NamedTuple):
    """A step takes one or both."""

    private: PrivateBatch | None
    public: PublicBatch | None


def private_steps(site: LocalSite) -> int:
    """Steps of an epoch that take private samples."""
    if site.private is not None:
        return site.private.config.steps_per_epoch(site.training.batch_size)
    return max(1, site.splits["train"].count // _private_size(site))


def epoch_batches(site: LocalSite, *, aligns: bool) -> Iterator[StepBatch]:
    """Of one local epoch, by the alignment's schedule where the site `aligns`."""
    schedule = site.config.alignment.schedule
    if aligns and schedule == "separate":
        for rows in _public_rows(site, None):
            yield StepBatch(None, _public_batch(site, rows))
    size, steps = _private_size(site), private_steps(site)
    order = None if site.private else torch.randperm(site.splits["train"].count, generator=site.generator)
    public = _public_rows(site, steps) if aligns and schedule == "joint" else None
    for step in range(steps):
        public_rows = (
            None if public is None else next(public)
        )  # a pass that begins draws its order before the private batch
        private = private_batch(site, _by_chance(site) if order is None else order[step * size : (step + 1) * size])
        yield StepBatch(private, None if public_rows is None else _public_batch(site, public_rows))


def warm_batches(site: LocalSite, count: int) -> Iterator[StepBatch]:
    """`count` private batches, each drawn from the whole split."""
    for _ in range(count):
        if site.private is not None:
            yield StepBatch(private_batch(site, _by_chance(site)), None)
            continue
        order = torch.randperm(site.splits["train"].count, generator=site.generator)
        yield StepBatch(private_batch(site, order[: _private_size(site)]), None)


def private_batch(site: LocalSite, indices: Tensor) -> PrivateBatch:
    """The training samples `indices`."""
    split = site.splits["train"]
    rows, which = split.batch(indices, site.generator, augment=site.config.client.augment)
    frozen = site.frozen_to_train(which)
    labels = None if split.labels is None else sent(split.labels[indices], site.device)
    return PrivateBatch({m: sent(rows[m], site.device) for m in site.encoders}, frozen, labels)


def _by_chance(site: LocalSite) -> Tensor:
    """Training samples, each by a draw of its own, in double precision: the chance is what is accounted for."""
    assert site.private is not None
    drawn = torch.rand(site.splits["train"].count, generator=site.generator, dtype=torch.float64)
    return (drawn < site.private.config.sampling_rate(site.training.batch_size)).nonzero().flatten()


def _public_batch(site: LocalSite, rows: Tensor) -> PublicBatch:
    assert site.public is not None
    drawn = {m: sent(site.public.drawn(m, rows, site.generator), site.device) for m in site.encoders}
    return PublicBatch(drawn, sent(rows, site.device))


def _public_rows(site: LocalSite, steps: int | None) -> Iterator[Tensor]:
    """Rows of the public set for `steps` steps, pass after pass; None: of one pass."""
    assert site.public is not None
    limit = min(site.config.client.public_samples_per_epoch or site.public.count, site.public.count)
    size = min(site.training.batch_size, limit)
    per_pass = max(1, limit // size)
    for step in range(per_pass if steps is None else steps):
        if step % per_pass == 0:
            order = torch.randperm(site.public.count, generator=site.generator)
        start = step % per_pass * size
        yield order[start : start + size]


def _private_size(site: LocalSite) -> int:
    return min(site.training.batch_size, site.splits["train"].count)
