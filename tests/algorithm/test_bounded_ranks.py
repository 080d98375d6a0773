"""Ranks by way of bfloat16 are those of float32, however near candidates are and however odd the numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fedafd.algorithm import bounded_ranks, ranks
from fedafd.algorithm.metrics import recall_at_k, scored_recall_at_k

BLOCKS = [(512, 2048), (5, 7)]


@pytest.fixture(params=BLOCKS, ids=str)
def shorter(request: pytest.FixtureRequest) -> Iterator[None]:
    """Takes the shorter way, in blocks of some size."""
    with shorter_way(request.param):
        yield


@contextmanager
def shorter_way(block: tuple[int, int]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "_rounds_well", lambda *_: True)
        patch.setattr(bounded_ranks, "_BLOCK", block)
        patch.setattr(bounded_ranks, "_QUERY_BLOCK", block)
        yield


def check_ranks(images: Tensor, texts: Tensor, owner_T: Tensor, cap: int) -> None:
    """In float64: who is a tie by 4 units more is before the right one, who is none by 4 more is not. What lies
    between is told by float32 sums, whose order of additions is free."""
    similar_IT = images.double() @ texts.double().T
    unit_IT = torch.finfo(torch.float32).eps * images.double().norm(dim=1)[:, None] * texts.double().norm(dim=1)
    is_own_IT = owner_T == torch.arange(len(images))[:, None]
    best_I = similar_IT.masked_fill(~is_own_IT, -torch.inf).amax(dim=1)
    own_T = similar_IT[owner_T, torch.arange(len(texts))]
    found_I, found_T = ranks.retrieval_ranks(images, texts, owner_T, cap)
    for found, own, units, dim in ((found_I, best_I[:, None], unit_IT, 1), (found_T, own_T, unit_IT, 0)):
        longest = units.amax(dim=dim, keepdim=True)
        least, most = (
            ((similar_IT >= own - ties * longest) & ~is_own_IT).sum(dim=dim).clamp(max=cap)
            for ties in (ranks.TIE_ULPS - 4, ranks.TIE_ULPS + 4)
        )
        assert bool((least <= found.clamp(max=cap)).all())
        assert bool((found.clamp(max=cap) <= most).all())


def captions(images: int, texts: int, generator: torch.Generator) -> Tensor:
    owners = torch.cat([torch.arange(images), torch.randint(images, (texts - images,), generator=generator)])
    return owners[torch.randperm(texts, generator=generator)]


@settings(max_examples=150)
@given(
    images=st.integers(1, 30),
    more=st.integers(0, 60),
    dim=st.integers(16, 40),
    kind=st.sampled_from(["unit", "whole", "close", "scaled", "negative", "bfloat16"]),
    noise=st.sampled_from([0.0, 0.5, 3.0, 100.0]),
    cap=st.sampled_from([1, 3, 10]),
    seed=st.integers(0, 10**6),
)
@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_they_are_the_ranks_of_float32(
    block: tuple[int, int], images: int, more: int, dim: int, kind: str, noise: float, cap: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    owner_T = captions(images, images + more, generator)
    image_reps = torch.randn(images, dim, generator=generator)
    text_reps = image_reps[owner_T] + noise * torch.randn(images + more, dim, generator=generator)
    if kind == "unit":
        image_reps, text_reps = F.normalize(image_reps, dim=1), F.normalize(text_reps, dim=1)
    elif kind == "whole":  # exact products, many ties
        image_reps, text_reps = image_reps.round(), text_reps.round()
    elif kind == "close":  # nearer to each other than bfloat16 can tell
        image_reps, text_reps = 1 + image_reps * 1e-4, 1 + text_reps * 1e-4
    elif kind == "scaled":
        image_reps = image_reps * 10.0 ** torch.randint(-6, 6, (images, 1), generator=generator)
        text_reps = text_reps * 10.0 ** torch.randint(-6, 6, (images + more, 1), generator=generator)
    elif kind == "negative":  # no product is above 0
        image_reps, text_reps = image_reps.abs(), -text_reps.abs()
    else:  # nothing is lost by rounding
        image_reps, text_reps = image_reps.bfloat16().float(), text_reps.bfloat16().float()
    with shorter_way(block):
        check_ranks(image_reps, text_reps, owner_T, cap)


@pytest.mark.usefixtures("shorter")
@pytest.mark.parametrize("noise", [0.0, 2.0, 8.0])
def test_whole_blocks_of_random_rows(noise: float) -> None:
    generator = torch.Generator().manual_seed(3)
    owner_T = captions(150, 700, generator)
    image_reps = F.normalize(torch.randn(150, 64, generator=generator), dim=1)
    text_reps = F.normalize(image_reps[owner_T] + noise * torch.randn(700, 64, generator=generator) / 8, dim=1)
    for cap in (1, 10, 10_000):
        check_ranks(image_reps, text_reps, owner_T, cap)


@pytest.mark.usefixtures("shorter")
def test_a_collapsed_encoder_scores_zero() -> None:
    for reps in (torch.ones(40, 16), F.normalize(torch.ones(40, 17), dim=1)):
        assert set(recall_at_k(reps, reps, torch.arange(40)).values()) == {0.0}


@pytest.mark.parametrize("factor", [1e-18, 1e18])
def test_what_does_not_round_well_is_not_rounded(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    monkeypatch.setattr(ranks, "_LEAST_PAIRS", 1)
    monkeypatch.setattr(ranks, "has_rounded_products", lambda: True)
    monkeypatch.setattr(ranks, "bounded_ranks", None)
    reps = factor * torch.eye(20)
    assert recall_at_k(torch.eye(20), reps, torch.arange(20))["i2t_r1"] == 100.0
    assert recall_at_k(reps.double(), reps.double(), torch.arange(20))["i2t_r1"] == 100.0
    short = torch.eye(15)
    assert recall_at_k(short, short, torch.arange(15))["i2t_r1"] == 100.0


@pytest.mark.skipif(not bounded_ranks.has_rounded_products(), reason="this CPU multiplies no int8 or no bfloat16")
def test_large_sets_take_the_shorter_way_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    owner_T = captions(600, 2400, generator)
    image_reps = F.normalize(torch.randn(600, 32, generator=generator), dim=1)
    text_reps = F.normalize(image_reps[owner_T] + 2 * torch.randn(2400, 32, generator=generator) / 32**0.5, dim=1)
    found, scores = scored_recall_at_k(image_reps, text_reps, owner_T)
    calls = []

    def noted(*given: Any) -> Any:
        calls.append(given)
        return bounded_ranks.bounded_ranks(*given)

    monkeypatch.setattr(ranks, "bounded_ranks", noted)
    assert recall_at_k(image_reps, text_reps, owner_T) == found
    assert len(calls) == 1
    exact, exact_scores = scored_recall_at_k(image_reps.double(), text_reps.double(), owner_T)
    assert found == pytest.approx(exact)
    assert torch.equal(scores, exact_scores)
    recall_at_k(image_reps[:100], text_reps[owner_T < 100], owner_T[owner_T < 100])
    assert len(calls) == 1
