"""A pool of classifiers is as accurate as its first one on the samples that its weights come from, and cautious."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedafd.algorithm.checks import InvalidTensorError
from fedafd.algorithm.pooling import fit_pool, pooled

CLASSES = 4


def classifiers(seed: int, count: int, samples: int, *, knowledge: tuple[float, ...]) -> tuple[list[Tensor], Tensor]:
    """Logits of noise, with so much of the right answer in each classifier's."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (samples,), generator=generator)
    right = torch.nn.functional.one_hot(labels, CLASSES).float()
    noise = [torch.randn(samples, CLASSES, generator=generator) for _ in range(count)]
    return [share * right + each for share, each in zip(knowledge, noise, strict=True)], labels


def oracle_log_probabilities(logits: list[Tensor], weights: tuple[float, ...]) -> np.ndarray:
    """Element by element, in float64."""
    samples, classes = logits[0].shape
    found = np.zeros((samples, classes))
    for n in range(samples):
        powers = []
        for c in range(classes):
            power = 1.0
            for each, weight in zip(logits, weights, strict=True):
                row = [math.exp(value) for value in each[n].double().tolist()]
                power *= (row[c] / sum(row)) ** weight
            powers.append(power)
        found[n] = [math.log(power / sum(powers)) for power in powers]
    return found


def oracle_own(right: np.ndarray, labels: Tensor, counts: list[int]) -> float:
    """Accuracy of each class, by how often the client has it."""
    told = labels.numpy()
    return sum(float(right[told == each].mean()) * count for each, count in enumerate(counts) if (told == each).any())


def oracle_weights(
    logits: list[Tensor], labels: Tensor, errors: float, steps: int, counts: list[int] | None = None
) -> tuple[float, ...]:
    """The one-standard-error rule, spelled out, of the weights that lose nothing."""
    right = {}
    for parts in itertools.product(range(steps + 1), repeat=len(logits)):
        if sum(parts) == steps:
            weights = tuple(part / steps for part in parts)
            right[weights] = oracle_log_probabilities(logits, weights).argmax(1) == labels.numpy()
    alone = right[max(right)]
    for weights, scores in list(right.items()):
        loses = scores.mean() < alone.mean()
        if loses or (counts and oracle_own(scores, labels, counts) < oracle_own(alone, labels, counts) - 1e-12):
            del right[weights]
    top = max(scores.mean() for scores in right.values())
    # Several may be as accurate and differ in which samples they tell right: the first of them is compared with.
    order = sorted(right, reverse=True)
    best = next(right[weights] for weights in order if right[weights].mean() == top)
    good = []
    for weights in order:
        behind = best.astype(float) - right[weights]
        if behind.mean() <= errors * behind.std(ddof=1) / math.sqrt(len(labels)):
            good.append(weights)
    most = max(weights[0] for weights in good)
    cautious = [weights for weights in good if weights[0] == most]
    return max(cautious, key=lambda weights: right[weights].mean())


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), parts=st.lists(st.integers(0, 4), min_size=3, max_size=3).filter(any))
def test_the_pool_is_the_oracles(seed: int, parts: list[int]) -> None:
    logits, _ = classifiers(seed, 3, 5, knowledge=(1.0, 0.5, 0.0))
    weights = tuple(part / sum(parts) for part in parts)
    np.testing.assert_allclose(
        pooled(logits, weights).numpy(), oracle_log_probabilities(logits, weights), atol=1e-5, rtol=1e-5
    )


def test_one_classifier_with_all_the_weight_is_itself_to_the_bit() -> None:
    logits, _ = classifiers(0, 2, 9, knowledge=(1.0, 1.0))
    assert torch.equal(pooled(logits, (0.0, 1.0)), torch.log_softmax(logits[1], dim=-1))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0, 3), errors=st.floats(0, 3))
def test_the_weights_are_the_oracles(seed: int, share: float, errors: float) -> None:
    logits, labels = classifiers(seed, 3, 20, knowledge=(1.0, share, 0.3))
    assert fit_pool(logits, labels, errors=errors, steps=2) == oracle_weights(logits, labels, errors, 2)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), counts=st.lists(st.integers(0, 9), min_size=CLASSES, max_size=CLASSES))
def test_with_a_clients_classes_the_weights_are_the_oracles(seed: int, counts: list[int]) -> None:
    logits, labels = classifiers(seed, 3, 20, knowledge=(1.0, 0.8, 0.3))
    expected = oracle_weights(logits, labels, 1.0, 2, counts)
    assert fit_pool(logits, labels, torch.tensor(counts), steps=2) == expected


def test_the_pool_loses_nothing_on_the_classes_that_the_client_has() -> None:
    """The second classifier is better on balanced validation samples, and worse on nearly all that the client sees."""
    labels = torch.arange(CLASSES).repeat(100)
    logits, noise = classifiers(4, 2, len(labels), knowledge=(0.0, 0.0))[0]
    knows = torch.tensor([4.0, 0.0, 0.0, 0.0])[labels], torch.tensor([1.0, 3.0, 3.0, 3.0])[labels]
    right = torch.nn.functional.one_hot(labels, CLASSES)
    both = [knows[0][:, None] * right + logits, knows[1][:, None] * right + noise]
    counts = torch.tensor([970, 10, 10, 10])
    assert fit_pool(both, labels)[1] > 0.5
    told = pooled(both, fit_pool(both, labels, counts)).argmax(-1) == labels
    alone = both[0].argmax(-1) == labels
    assert float(told[labels == 0].double().mean()) >= float(alone[labels == 0].double().mean()) - 0.03
    assert float(told.double().mean()) >= float(alone.double().mean())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), samples=st.integers(1, 60))
def test_the_pool_is_as_accurate_as_the_first_classifier_where_it_was_weighed(seed: int, samples: int) -> None:
    logits, labels = classifiers(seed, 3, samples, knowledge=(1.0, 1.0, 0.0))
    mixed = pooled(logits, fit_pool(logits, labels)).argmax(-1) == labels
    assert float(mixed.double().mean()) >= float((logits[0].argmax(-1) == labels).double().mean())


def test_a_classifier_that_knows_nothing_gets_no_weight() -> None:
    logits, labels = classifiers(1, 2, 200, knowledge=(3.0, 0.0))
    assert fit_pool(logits, labels) == (1.0, 0.0)


def test_one_that_knows_as_much_by_other_noise_is_taken_in() -> None:
    logits, labels = classifiers(2, 2, 400, knowledge=(2.0, 2.0))
    first, second = fit_pool(logits, labels)
    assert first > 0
    assert second > 0


def test_a_copy_of_the_first_adds_nothing_and_gets_nothing() -> None:
    logits, labels = classifiers(3, 1, 50, knowledge=(1.0,))
    assert fit_pool([*logits, *logits], labels) == (1.0, 0.0)


def test_a_gain_within_the_error_moves_nothing() -> None:
    logits, labels = classifiers(6, 2, 40, knowledge=(1.0, 1.2))
    first, second = ((each.argmax(-1) == labels).double().mean() for each in logits)
    assert second > first
    assert fit_pool(logits, labels, errors=3.0) == (1.0, 0.0)
    assert fit_pool(logits, labels, errors=0.0) != (1.0, 0.0)


def test_what_does_not_fit_is_named() -> None:
    logits, labels = classifiers(5, 2, 6, knowledge=(1.0, 1.0))
    with pytest.raises(InvalidTensorError, match="at least one classifier"):
        fit_pool([], labels)
    with pytest.raises(InvalidTensorError, match="steps"):
        fit_pool(logits, labels, steps=0)
    with pytest.raises(InvalidTensorError, match="they must be equal"):
        fit_pool([logits[0], logits[1][:, :3]], labels)
    with pytest.raises(InvalidTensorError, match="not finite"):
        fit_pool([logits[0], logits[1] / 0], labels)
    with pytest.raises(InvalidTensorError, match="labels_n"):
        fit_pool(logits, labels + CLASSES)
    with pytest.raises(InvalidTensorError, match="one above 0"):
        pooled(logits, (0.0, 0.0))
    with pytest.raises(InvalidTensorError, match="2 classifiers"):
        pooled(logits, (1.0,))
