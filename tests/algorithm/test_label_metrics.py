"""Several labels a sample: scores equal slow readable forms, and ties count against the model."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedafd.algorithm.checks import InvalidTensorError
from fedafd.algorithm.label_metrics import label_ranking_scores, mean_average_precision, micro_f1


@st.composite
def logits_and_labels(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    cells = st.lists(st.lists(st.integers(-3, 3), min_size=columns, max_size=columns), min_size=rows, max_size=rows)
    bits = st.lists(st.lists(st.integers(0, 1), min_size=columns, max_size=columns), min_size=rows, max_size=rows)
    return torch.tensor(draw(cells), dtype=torch.float32), torch.tensor(draw(bits), dtype=torch.uint8)


def slow_ranking(logits: list[float], labels: list[int]) -> float:
    right = [c for c, held in enumerate(labels) if held]
    if not right:
        return 100.0
    shares = []
    for c in right:
        as_high = [d for d in range(len(labels)) if logits[d] >= logits[c]]
        shares.append(sum(labels[d] for d in as_high) / len(as_high))
    return 100 * sum(shares) / len(shares)


@given(logits_and_labels())
@settings(max_examples=60, deadline=None)
def test_ranking_scores_are_those_of_a_slow_loop(given: tuple[Tensor, Tensor]) -> None:
    logits, labels = given
    slow = [slow_ranking(*row) for row in zip(logits.tolist(), labels.tolist(), strict=True)]
    assert label_ranking_scores(logits, labels).tolist() == pytest.approx(slow)


@given(logits_and_labels())
@settings(max_examples=60, deadline=None)
def test_mean_average_precision_is_the_ranking_score_of_the_labels_that_have_a_sample(
    given: tuple[Tensor, Tensor],
) -> None:
    logits, labels = given
    columns = [c for c in range(labels.shape[1]) if labels[:, c].any()]
    slow = [slow_ranking(logits[:, c].tolist(), labels[:, c].tolist()) for c in columns]
    assert mean_average_precision(logits, labels) == pytest.approx(sum(slow) / len(slow) if slow else 0)


@given(logits_and_labels())
@settings(max_examples=60, deadline=None)
def test_micro_f1_counts_all_decisions_together(given: tuple[Tensor, Tensor]) -> None:
    logits, labels = given
    cells = list(zip((logits > 0).flatten().tolist(), labels.flatten().bool().tolist(), strict=True))
    both, wrong = cells.count((True, True)), cells.count((True, False)) + cells.count((False, True))
    assert micro_f1(logits, labels) == pytest.approx(200 * both / (2 * both + wrong) if both or wrong else 100)


def test_a_model_that_cannot_tell_labels_apart_earns_its_share_alone() -> None:
    labels = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0]])
    assert label_ranking_scores(torch.zeros(2, 4), labels).tolist() == [25, 50]
    assert label_ranking_scores(torch.tensor([[3.0, 2, 1, 0], [3, 2, 1, 0]]), labels).tolist() == [100, 100]


@pytest.mark.parametrize(
    "labels", [torch.tensor([[0, 2]]), torch.tensor([0, 1]), torch.tensor([[0, 1, 0]]), torch.tensor([[0, -1]])]
)
def test_labels_that_are_no_sets_are_refused(labels: Tensor) -> None:
    with pytest.raises(InvalidTensorError, match="labels"):
        label_ranking_scores(torch.zeros(1, 2), labels)


def test_logits_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InvalidTensorError, match="logits"):
        micro_f1(torch.tensor([[torch.nan, 0]]), torch.tensor([[0, 1]]))
