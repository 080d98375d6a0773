"""FedMD's digest step: how far each row is from the consensus."""

from __future__ import annotations

import pytest
import torch

from fedafd.algorithm.fedmd import digest_loss


def test_it_is_the_mean_of_squared_distances() -> None:
    features, consensus = torch.randn(5, 3), torch.randn(5, 3)
    slow = sum(float(((f - c) ** 2).sum()) for f, c in zip(features, consensus, strict=True)) / 5
    assert float(digest_loss(features, consensus)) == pytest.approx(slow, rel=1e-5)


def test_nothing_is_lost_at_the_consensus() -> None:
    rows = torch.randn(4, 2)
    assert float(digest_loss(rows, rows)) == 0
