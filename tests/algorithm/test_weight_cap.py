"""The cap on a client's weight: holds for any scores, changes nothing where nobody exceeds it, equals a slow search."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedafd.algorithm.checks import InvalidTensorError
from fedafd.algorithm.distillation import MeanEnsemble, SimilarityEnsemble, similarity_weights
from fedafd.algorithm.weight_cap import Cap, capped_scores, capped_weights, score_limit, share_cap
from fedafd.domain.merge_tree import plan_merges

quick = settings(max_examples=25, deadline=None)
CAPS = st.one_of(st.sampled_from(["auto", "strict"]), st.floats(0.01, 1.0))


@pytest.fixture(autouse=True)
def _few_threads() -> None:
    torch.set_num_threads(1)


def drawn(count: int, samples: int, scale: float, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Scores [K, N], whose first row is what a copy of the global representations would have."""
    rng = torch.Generator().manual_seed(seed)
    scores_KN = torch.randn(count, samples, generator=rng, dtype=torch.float64) * scale
    scores_KN[0] += 3 * scale
    return scores_KN.to(dtype)


def oracle(scores: list[float], caps: list[float]) -> list[float]:
    """Water-filling by bisection of t in sum of min(cap, exp(score - t)) = 1, in Python's floats."""
    low, high = min(scores) - 60.0, max(scores) + math.log(len(scores)) + 1.0
    for _ in range(300):
        t = (low + high) / 2
        total = sum(c if s - t > math.log(c) else math.exp(s - t) for s, c in zip(scores, caps, strict=True))
        low, high = (t, high) if total > 1 else (low, t)
    return [min(c, math.exp(min(0.0, s - high))) for s, c in zip(scores, caps, strict=True)]


@quick
@given(st.integers(1, 12), st.sampled_from([0.0, 0.1, 3.0, 40.0]), CAPS, st.integers(0, 10**6))
def test_weights_are_those_of_a_slow_search(count: int, scale: float, cap: Cap, seed: int) -> None:
    scores_KN = drawn(count, 4, scale, seed, torch.float64)
    caps_K = torch.full((count,), share_cap(cap, count), dtype=torch.float64)
    found_KN = capped_weights(scores_KN, caps_K)
    for n in range(4):
        expected_K = torch.tensor(oracle(scores_KN[:, n].tolist(), caps_K.tolist()), dtype=torch.float64)
        torch.testing.assert_close(found_KN[:, n], expected_K, rtol=1e-6, atol=1e-7)


@quick
@given(st.integers(1, 40), st.sampled_from([0.0, 1.0, 30.0, 1e4, 1e30]), CAPS, st.integers(0, 10**6))
def test_no_client_weighs_more_than_its_cap_whatever_the_scores(count: int, scale: float, cap: Cap, seed: int) -> None:
    scores_KN, share = drawn(count, 30, scale, seed), share_cap(cap, count)
    weights_KN = capped_weights(scores_KN, torch.full((count,), share, dtype=torch.float64))
    assert float(weights_KN.max()) <= share * (1 + 1e-12)
    assert float(weights_KN.min()) >= 0
    if scale < 1e30:  # beyond, one ulp of a score is more than all of its weight
        torch.testing.assert_close(weights_KN.sum(dim=0), torch.ones(30, dtype=torch.float64), rtol=0, atol=1e-5)


@quick
@given(st.integers(1, 20), st.sampled_from([0.01, 0.3, 3.0]), st.integers(0, 10**6))
def test_where_nobody_exceeds_the_cap_every_bit_is_that_of_plain_sed(count: int, scale: float, seed: int) -> None:
    scores_KN, share = drawn(count, 50, scale, seed), share_cap("auto", count)
    limit_N = score_limit(scores_KN, torch.full((count,), share, dtype=torch.float64))
    free_N = scores_KN.double().softmax(dim=0).max(dim=0).values < share - 1e-9
    for scores_N in scores_KN:
        assert torch.equal(capped_scores(scores_N, limit_N, share)[free_N], scores_N[free_N])


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("scale", [0.0, 1.0, 50.0])
def test_one_and_two_clients_are_never_capped_by_default(count: int, scale: float) -> None:
    scores_KN = drawn(count, 500, scale, 7)
    limit_N = score_limit(scores_KN, torch.ones(count, dtype=torch.float64))
    for scores_N in scores_KN:
        assert torch.equal(capped_scores(scores_N, limit_N, share_cap("auto", count)), scores_N)


@quick
@given(st.integers(3, 40), st.sampled_from([1.0, 30.0, 1e30]), st.integers(0, 10**6))
def test_with_a_strict_cap_thirty_percent_of_the_clients_weigh_at_most_thirty_five(
    count: int, scale: float, seed: int
) -> None:
    share = share_cap("strict", count)
    weights_KN = capped_weights(drawn(count, 20, scale, seed), torch.full((count,), share, dtype=torch.float64))
    largest_KN = weights_KN.sort(dim=0, descending=True).values
    assert float(largest_KN[: math.floor(0.3 * count)].sum(dim=0).max()) <= 0.35 + 1e-9


def test_caps_that_sum_to_one_are_the_weights() -> None:
    scores_KN = drawn(4, 20, 5.0, 3)
    assert share_cap(0.01, 4) == 0.25
    weights_KN = capped_weights(scores_KN, torch.full((4,), 0.25, dtype=torch.float64))
    torch.testing.assert_close(weights_KN, torch.full((4, 20), 0.25, dtype=torch.float64), rtol=1e-6, atol=0)


def test_who_stands_for_more_clients_has_a_cap_of_so_many() -> None:
    caps_K = torch.tensor([0.4, 0.2, 0.2, 0.2], dtype=torch.float64)  # a region of two beside three clients, K = 5
    scores_KN = torch.tensor([[9.0], [0.0], [0.0], [0.0]])
    torch.testing.assert_close(capped_weights(scores_KN, caps_K)[:, 0], caps_K, rtol=1e-6, atol=0)
    caps_K = torch.tensor([0.8, 0.4, 0.4, 0.4], dtype=torch.float64)
    assert float(capped_weights(scores_KN, caps_K)[0, 0]) == pytest.approx(0.8)


@quick
@given(st.integers(2, 12), st.integers(0, 10**6))
def test_capped_states_merge_in_any_order_to_the_capped_ensemble(count: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(count, 9, 6, generator=rng, dtype=torch.float64), dim=2)
    global_ND = rows[0]  # the first client copies
    share = share_cap("auto", count)
    caps_K = torch.full((count,), share, dtype=torch.float64)
    ensembles = [SimilarityEnsemble(global_ND, 0.05) for _ in range(count)]
    for ensemble, reps_ND in zip(ensembles, rows, strict=True):
        ensemble.add(reps_ND)
    scores_KN = torch.stack([ensemble.scores() for ensemble in ensembles])
    limit_N, weights_KN = score_limit(scores_KN, caps_K), capped_weights(scores_KN, caps_K)
    parts = list(ensembles)
    order = random.Random(seed)
    while len(parts) > 1:  # each merge caps what it merges, states that were merged too
        merged = SimilarityEnsemble.from_state(parts.pop(order.randrange(len(parts))).state())
        merged.cap(limit_N, min(1.0, share * merged.count))
        other = SimilarityEnsemble.from_state(parts.pop(order.randrange(len(parts))).state())
        other.cap(limit_N, min(1.0, share * other.count))
        merged.merge(other)
        parts.append(merged)
    expected_ND = (weights_KN[:, :, None] * rows).sum(dim=0)
    torch.testing.assert_close(parts[0].result(), expected_ND, rtol=1e-8, atol=1e-10)
    plain_ND = (similarity_weights(rows, global_ND, 0.05)[:, :, None] * rows).sum(dim=0)
    assert count == 2 or not torch.allclose(parts[0].result(), plain_ND)


def test_the_uniform_mean_stays_as_it_is() -> None:
    global_ND = torch.nn.functional.normalize(torch.randn(5, 4), dim=1)
    ensemble = MeanEnsemble(global_ND)
    ensemble.add(global_ND)
    before = ensemble.state()
    ensemble.cap(torch.full((5,), math.log(3), dtype=torch.float64), share_cap("auto", 3))
    assert torch.equal(ensemble.state()["running_max"], before["running_max"])


def test_a_state_that_is_empty_takes_a_cap_and_stays_empty() -> None:
    ensemble = SimilarityEnsemble(torch.eye(3))
    ensemble.cap(torch.zeros(3, dtype=torch.float64), 0.5)
    assert ensemble.count == 0


@pytest.mark.parametrize(
    ("caps", "told"),
    [([0.2, 0.2], "sum to 0.4"), ([0.0, 1.0], "not finite"), ([1.0], "expected shape")],
)
def test_caps_that_no_weights_can_meet_are_refused(caps: list[float], told: str) -> None:
    with pytest.raises(InvalidTensorError, match=told):
        score_limit(torch.zeros(2, 3), torch.tensor(caps, dtype=torch.float64))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_refused(bad: float) -> None:
    with pytest.raises(InvalidTensorError, match="scores_KN"):
        score_limit(torch.tensor([[0.0, bad], [0.0, 0.0]]), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize(("cap", "count"), [(0.0, 3), (1.5, 3), (0.5, 0), (float("nan"), 3)])
def test_a_share_that_makes_no_sense_is_refused(cap: float, count: int) -> None:
    with pytest.raises(InvalidTensorError):
        share_cap(cap, count)


def test_the_tree_gives_the_same_bits_whoever_was_first() -> None:
    rows = torch.nn.functional.normalize(torch.randn(11, 7, 5, generator=torch.Generator().manual_seed(1)), dim=2)
    share = share_cap("auto", 11)

    def merged_after(order: list[int]) -> Tensor:
        leaves: dict[int, SimilarityEnsemble | None] = {}
        for place in order:
            leaf = SimilarityEnsemble(rows[3], 0.05)
            leaf.add(rows[place])
            leaves[place] = leaf
        scores_KN = torch.stack([leaf.scores() for _, leaf in sorted(leaves.items()) if leaf is not None])
        limit_N = score_limit(scores_KN, torch.full((11,), share, dtype=torch.float64))
        done: dict[tuple[int, int], SimilarityEnsemble] = {}
        while not (plan := plan_merges(11, leaves, done)).settled:
            for step in plan.ready:
                single = [child for child in step.children if isinstance(child, SimilarityEnsemble)]
                parts = [SimilarityEnsemble.from_state(child.state()) for child in single]
                for part in parts:
                    part.cap(limit_N, min(1.0, share * part.count))
                for part in parts[1:]:
                    parts[0].merge(part)
                done[step.level, step.position] = parts[0]
        assert plan.root is not None
        return plan.root.result()

    assert torch.equal(merged_after(list(range(11))), merged_after([5, 0, 10, 3, 2, 9, 1, 8, 4, 7, 6]))
