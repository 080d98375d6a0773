"""CreamFL's contrasts and aggregation against slow loops in float64 (formulas of arXiv 2302.08888)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fedafd.algorithm.checks import InvalidTensorError
from fedafd.algorithm.creamfl import ContrastiveEnsemble, inter_modal_contrast, intra_modal_contrast
from fedafd.algorithm.distillation import SimilarityEnsemble


def rows(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def dot(a: Tensor, b: Tensor) -> float:
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def inter_oracle(features: Tensor, other: Tensor, which: list[int], tau: float) -> float:
    losses = []
    for feature, own in zip(features, which, strict=True):
        powers = [math.exp(dot(feature, candidate) / tau) for candidate in other]
        losses.append(-math.log(powers[own] / sum(powers)))
    return sum(losses) / len(losses)


def intra_oracle(features: Tensor, global_: Tensor, previous: Tensor, tau: float) -> float:
    losses = []
    for feature, target, before in zip(features, global_, previous, strict=True):
        towards, away = math.exp(dot(feature, target) / tau), math.exp(dot(feature, before) / tau)
        losses.append(-math.log(towards / (towards + away)))
    return sum(losses) / len(losses)


def weights_oracle(reps: Tensor, other: Tensor, tau: float) -> list[list[float]]:
    """Of each client on each item: softmax over clients of log(e^own / sum over the other items)."""
    scores = []
    for client in reps:
        line = []
        for n, row in enumerate(client):
            rest = sum(math.exp(dot(row, candidate) / tau) for j, candidate in enumerate(other) if j != n)
            line.append(math.log(math.exp(dot(row, other[n]) / tau) / rest))
        scores.append(line)
    total = [sum(math.exp(line[n]) for line in scores) for n in range(len(other))]
    return [[math.exp(value) / total[n] for n, value in enumerate(line)] for line in scores]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.07, 0.5, 1.0]), st.integers(2, 9), st.integers(1, 5))
def test_both_contrasts_equal_their_formulas(seed: int, tau: float, samples: int, batch: int) -> None:
    features, other = rows(seed, batch, 4), rows(seed + 1, samples, 4)
    which = torch.randint(samples, (batch,), generator=torch.Generator().manual_seed(seed))
    found = inter_modal_contrast(features, other, which, temperature=tau)
    assert float(found) == pytest.approx(inter_oracle(features, other, which.tolist(), tau), rel=1e-9)
    target, before = rows(seed + 2, batch, 4), rows(seed + 3, batch, 4)
    found = intra_modal_contrast(features, target, before, temperature=tau)
    assert float(found) == pytest.approx(intra_oracle(features, target, before, tau), rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.1, 0.5, 1.0]), st.integers(1, 4), st.integers(2, 8))
def test_the_ensemble_equals_the_papers_weights(seed: int, tau: float, clients: int, samples: int) -> None:
    reps, other = rows(seed, clients, samples, 5), rows(seed + 1, samples, 5)
    ensemble = ContrastiveEnsemble(other, tau)
    for client in reps:
        ensemble.add(client)
    weights = torch.tensor(weights_oracle(reps, other, tau), dtype=torch.float64)
    torch.testing.assert_close(ensemble.result(), torch.einsum("kn,knd->nd", weights, reps))


def test_it_merges_like_any_ensemble() -> None:
    reps, other = rows(0, 3, 6, 4), rows(1, 6, 4)
    whole = ContrastiveEnsemble(other, 0.2)
    parts = [ContrastiveEnsemble(other, 0.2) for _ in range(3)]
    for client, part in zip(reps, parts, strict=True):
        whole.add(client)
        part.add(client)
    merged = SimilarityEnsemble.from_state(parts[2].state())
    for part in parts[:2]:
        merged.merge(part)
    torch.testing.assert_close(merged.result(), whole.result())


def test_a_perfect_client_stays_finite() -> None:
    other = torch.eye(4, dtype=torch.float32)
    ensemble = ContrastiveEnsemble(other, 0.01)
    ensemble.add(other)
    ensemble.add(-other)
    assert bool(torch.isfinite(ensemble.result()).all())
    torch.testing.assert_close(ensemble.result(), other)


def test_targets_get_no_gradient() -> None:
    features, other, before = (rows(n, 3, 4).requires_grad_() for n in range(3))
    loss = inter_modal_contrast(features, other, torch.arange(3)) + intra_modal_contrast(features, other, before)
    torch.autograd.backward(loss)
    assert features.grad is not None
    assert other.grad is None
    assert before.grad is None


def test_bad_shapes_and_temperatures_are_refused() -> None:
    with pytest.raises(InvalidTensorError, match="previous_BD"):
        intra_modal_contrast(rows(0, 3, 4), rows(1, 3, 4), rows(2, 2, 4))
    with pytest.raises(InvalidTensorError, match="temperature"):
        intra_modal_contrast(rows(0, 3, 4), rows(1, 3, 4), rows(2, 3, 4), temperature=0.0)
    with pytest.raises(InvalidTensorError, match="positives_B"):
        inter_modal_contrast(rows(0, 3, 4), rows(1, 5, 4), torch.tensor([0, 1, 5]))
