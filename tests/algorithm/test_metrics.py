"""Recall and accuracy against sorting loops, the rule for ties, the folds, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedafd.algorithm import ranks
from fedafd.algorithm.checks import InvalidTensorError
from fedafd.algorithm.metrics import (
    accuracy_at_k,
    accuracy_scores,
    fold_recall_at_k,
    recall_at_k,
    rsum,
    scored_recall_at_k,
)


def whole_numbers(*shape: int, seed: int, spread: int) -> Tensor:
    """Small integers as floats: products are exact, and with a small spread there are many ties."""
    return torch.randint(-spread, spread + 1, shape, generator=torch.Generator().manual_seed(seed)).float()


def captions(images: int, texts: int, seed: int) -> Tensor:
    """Owners of captions in random order, each image with one at least."""
    generator = torch.Generator().manual_seed(seed)
    owners = torch.cat([torch.arange(images), torch.randint(images, (texts - images,), generator=generator)])
    return owners[torch.randperm(texts, generator=generator)]


def oracle_recall(images: Tensor, texts: Tensor, owner: list[int], ks: tuple[int, ...]) -> dict[str, float]:
    """Sort the candidates of each query, wrong ones first among equals, and look at the top k."""
    similarity = (images.double() @ texts.double().T).tolist()
    i2t, t2i = [], []
    for i, row in enumerate(similarity):
        order = sorted(range(len(row)), key=lambda j: (-row[j], owner[j] == i))
        i2t.append(next(rank for rank, j in enumerate(order) if owner[j] == i))
    for j, i in enumerate(owner):
        order = sorted(range(len(similarity)), key=lambda other: (-similarity[other][j], other == i))
        t2i.append(order.index(i))
    result = {}
    for k in ks:
        result[f"i2t_r{k}"] = 100 * sum(rank < k for rank in i2t) / len(i2t)
        result[f"t2i_r{k}"] = 100 * sum(rank < k for rank in t2i) / len(t2i)
    return result


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 12), st.integers(0, 20), st.integers(1, 6), st.sampled_from([1, 3, 1000]), st.integers(0, 10**6))
def test_recall_equals_the_sorting_loop(images: int, more: int, dim: int, spread: int, seed: int) -> None:
    image_reps = whole_numbers(images, dim, seed=seed, spread=spread)
    text_reps = whole_numbers(images + more, dim, seed=seed + 1, spread=spread)
    owner = captions(images, images + more, seed)
    expected = oracle_recall(image_reps, text_reps, owner.tolist(), (1, 5, 10))
    assert recall_at_k(image_reps, text_reps, owner) == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(0, 20), st.integers(0, 10**6))
def test_scores_of_samples_average_to_the_metric(images: int, more: int, seed: int) -> None:
    image_reps = whole_numbers(images, 4, seed=seed, spread=3)
    text_reps = whole_numbers(images + more, 4, seed=seed + 1, spread=3)
    owner = captions(images, images + more, seed)
    _, scores = scored_recall_at_k(image_reps, text_reps, owner)
    assert scores.shape == (images,)
    assert float(scores.mean()) == pytest.approx(rsum(recall_at_k(image_reps, text_reps, owner)))
    labels = owner % 4
    assert float(accuracy_scores(text_reps, labels).mean()) == pytest.approx(accuracy_at_k(text_reps, labels)["acc1"])


def test_scores_of_samples_are_their_own() -> None:
    image_reps = torch.eye(3)
    text_reps = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]])
    owner = torch.tensor([0, 1, 2, 2])
    # Image 2 has a caption that is image 0's before its own, beside one that is found at once.
    _, scores = scored_recall_at_k(image_reps, text_reps, owner, ks=(1,))
    assert scores.tolist() == pytest.approx([75.0, 175.0, 175.0])
    logits = torch.tensor([[2.0, 1.0], [1.0, 1.0]])
    assert accuracy_scores(logits, torch.tensor([0, 0])).tolist() == [100.0, 0.0]


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    image_reps, text_reps = whole_numbers(23, 8, seed=0, spread=3), whole_numbers(61, 8, seed=1, spread=3)
    owner = captions(23, 61, 0)
    expected = recall_at_k(image_reps, text_reps, owner)
    for block in ((1, 1), (4, 100), (100, 7)):
        monkeypatch.setattr(ranks, "_CPU_BLOCK", block)
        assert recall_at_k(image_reps, text_reps, owner) == expected


def test_matched_pairs_score_100_and_names_are_the_promised_ones() -> None:
    reps = torch.eye(6)
    result = recall_at_k(reps, reps, torch.arange(6))
    assert result == {f"{way}_r{k}": 100.0 for way in ("i2t", "t2i") for k in (1, 5, 10)}
    assert rsum(result) == 600.0


def test_any_caption_in_the_top_k_is_a_hit() -> None:
    image_reps = torch.eye(2)
    text_reps = torch.tensor([[0.9, 0.0], [0.1, 0.2], [0.5, 0.4], [0.0, 0.1]])
    result = recall_at_k(image_reps, text_reps, torch.tensor([0, 0, 1, 1]), ks=(1, 2))
    # Image 0 finds caption 0 first; image 1 finds caption 2 first; captions 0, 2 (0.5 > 0.4 is wrong), 1, 3 (right).
    assert result["i2t_r1"] == 100.0
    assert result["t2i_r1"] == 50.0
    assert result["t2i_r2"] == 100.0


def test_a_collapsed_encoder_scores_zero_because_ties_count_against_it() -> None:
    result = recall_at_k(torch.ones(20, 4), torch.ones(20, 4), torch.arange(20))
    assert set(result.values()) == {0.0}


def test_permuting_images_and_captions_changes_nothing() -> None:
    image_reps, text_reps = torch.randn(9, 5), torch.randn(20, 5)
    owner = captions(9, 20, 3)
    images, texts = torch.randperm(9), torch.randperm(20)
    place = torch.empty(9, dtype=torch.int64).scatter(0, images, torch.arange(9))
    permuted = recall_at_k(image_reps[images], text_reps[texts], place[owner[texts]])
    assert permuted == recall_at_k(image_reps, text_reps, owner)


def test_recall_grows_with_k_and_is_100_at_the_number_of_candidates() -> None:
    image_reps, text_reps, owner = torch.randn(9, 5), torch.randn(20, 5), captions(9, 20, 3)
    result = recall_at_k(image_reps, text_reps, owner, ks=tuple(range(1, 21)))
    for way in ("i2t", "t2i"):
        values = [result[f"{way}_r{k}"] for k in range(1, 21)]
        assert values == sorted(values)
        assert values[-1] == 100.0


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 12), st.integers(0, 10**6))
def test_five_fold_is_the_mean_over_runs_of_images(folds: int, size: int, more: int, seed: int) -> None:
    images = folds * size
    image_reps = whole_numbers(images, 4, seed=seed, spread=2)
    text_reps = whole_numbers(images + more, 4, seed=seed + 1, spread=2)
    owner = captions(images, images + more, seed)
    expected = dict.fromkeys(["i2t_r1", "t2i_r1"], 0.0)
    for start in range(0, images, size):
        inside = [j for j, i in enumerate(owner.tolist()) if start <= i < start + size]
        fold = oracle_recall(
            image_reps[start : start + size], text_reps[inside], [int(owner[j]) - start for j in inside], (1,)
        )
        expected = {name: value + fold[name] / folds for name, value in expected.items()}
    assert fold_recall_at_k(image_reps, text_reps, owner, (1,), folds=folds) == pytest.approx(expected)


def test_half_precision_is_compared_in_float32() -> None:
    image_reps, text_reps = torch.randn(9, 16).half(), torch.randn(9, 16).half()
    owner = torch.arange(9)
    assert recall_at_k(image_reps, text_reps, owner) == recall_at_k(image_reps.float(), text_reps.float(), owner)


@pytest.mark.parametrize(
    ("image_of_text", "message"),
    [
        (torch.tensor([0, 1, 1]), "1 of 3 images have no caption, the first is row 2"),
        (torch.tensor([0, 1, 3]), r"expected values in 0\.\.2, got 0\.\.3"),
        (torch.tensor([0, -1, 2]), "got -1"),
        (torch.tensor([0, 1]), "expected shape"),
        (torch.tensor([0.0, 1.0, 2.0]), "whole numbers"),
    ],
)
def test_captions_that_do_not_fit_the_images_are_refused(image_of_text: Tensor, message: str) -> None:
    with pytest.raises(InvalidTensorError, match=message):
        recall_at_k(torch.ones(3, 4), torch.ones(3, 4), image_of_text)


def test_bad_representations_folds_and_ks_are_refused() -> None:
    owner = torch.arange(3)
    with pytest.raises(ValueError, match="text_reps"):
        recall_at_k(torch.ones(3, 4), torch.ones(3, 5), owner)
    with pytest.raises(InvalidTensorError, match="not finite"):
        recall_at_k(torch.full((3, 4), torch.nan), torch.ones(3, 4), owner)
    with pytest.raises(InvalidTensorError, match="image_reps"):
        recall_at_k(torch.ones(0, 4), torch.ones(3, 4), owner)
    with pytest.raises(InvalidTensorError, match="ks"):
        recall_at_k(torch.ones(3, 4), torch.ones(3, 4), owner, ks=(0,))
    with pytest.raises(InvalidTensorError, match="folds"):
        fold_recall_at_k(torch.ones(3, 4), torch.ones(3, 4), owner, folds=2)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(1, 12), st.sampled_from([1, 100]), st.integers(0, 10**6))
def test_accuracy_equals_the_sorting_loop(size: int, classes: int, spread: int, seed: int) -> None:
    logits = whole_numbers(size, classes, seed=seed, spread=spread)
    labels = torch.randint(classes, (size,), generator=torch.Generator().manual_seed(seed))
    hits = {1: 0, 5: 0}
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        order = sorted(range(classes), key=lambda c: (-row[c], c == label))
        for k in hits:
            hits[k] += order.index(label) < k
    expected = {f"acc{k}": 100 * count / size for k, count in hits.items()}
    assert accuracy_at_k(logits, labels) == pytest.approx(expected)


def test_golden_accuracy() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 1.0, 0.0], [5.0, 4.0, 3.0]])
    assert accuracy_at_k(logits, torch.tensor([0, 1, 0, 2]), ks=(1, 2)) == {"acc1": 50.0, "acc2": 75.0}


def test_bad_logits_and_labels_are_refused() -> None:
    with pytest.raises(InvalidTensorError, match="labels"):
        accuracy_at_k(torch.ones(3, 4), torch.tensor([0, 1, 4]))
    with pytest.raises(InvalidTensorError, match="labels"):
        accuracy_at_k(torch.ones(3, 4), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="logits"):
        accuracy_at_k(torch.full((3, 4), torch.nan), torch.tensor([0, 1, 2]))


def test_similarities_within_rounding_are_ties_and_count_against_the_model() -> None:
    rival = torch.nn.functional.normalize(torch.tensor([[1.0, 1e-4], [1.0, 0.0]]), dim=1)
    # Own similarity 1, the rival's 1 - 5e-9: equal in float32, whatever the order of additions.
    assert recall_at_k(rival, rival, torch.arange(2), ks=(1,)) == {"i2t_r1": 0.0, "t2i_r1": 0.0}
    apart = torch.nn.functional.normalize(torch.tensor([[1.0, 1e-2], [1.0, 0.0]]), dim=1)
    assert recall_at_k(apart, apart, torch.arange(2), ks=(1,)) == {"i2t_r1": 100.0, "t2i_r1": 100.0}


def test_identical_candidates_are_ties_in_whatever_block_they_lie() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.nn.functional.normalize(torch.randn(1, 64, generator=generator), dim=1)
    collapsed_I, collapsed_T = image.expand(1200, -1).contiguous(), image.expand(5000, -1).contiguous()
    found = recall_at_k(collapsed_I, collapsed_T, torch.arange(5000) % 1200)
    assert set(found.values()) == {0.0}
