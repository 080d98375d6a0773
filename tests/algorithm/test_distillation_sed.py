"""SED: streaming, merging and all-at-once are one formula, and the weights are what the paper says."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.devices import DEVICES
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from fedafd.algorithm import similarity
from fedafd.algorithm.distillation import (
    MeanEnsemble,
    SimilarityEnsemble,
    similarity_scores,
    similarity_weights,
)

sizes = st.tuples(st.integers(1, 6), st.integers(1, 23), st.sampled_from([1, 2, 5, 16, 64, 256]))


def unit_rows(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(values, dim=-1).to(dtype)


def oracle_score(reps: list[list[float]], global_reps: list[list[float]], n: int, tau: float) -> float:
    """s(n), from the definition, in Python floats."""
    logits = [sum(a * b for a, b in zip(reps[n], row, strict=True)) / tau for row in global_reps]
    largest = max(logits)
    return logits[n] - largest - math.log(math.fsum(math.exp(logit - largest) for logit in logits))


def oracle_scores(reps_KND: Tensor, global_ND: Tensor, tau: float) -> Tensor:
    reference = global_ND.tolist()
    return torch.tensor(
        [[oracle_score(reps, reference, n, tau) for n in range(len(reference))] for reps in reps_KND.tolist()],
        dtype=torch.float64,
    )


def oracle_weights(reps_KND: Tensor, global_ND: Tensor, tau: float) -> Tensor:
    scores_KN = oracle_scores(reps_KND, global_ND, tau)
    exponentials_KN = torch.exp(scores_KN - scores_KN.max(dim=0).values)
    return exponentials_KN / exponentials_KN.sum(dim=0)


def oracle_aggregate(reps_KND: Tensor, global_ND: Tensor, tau: float) -> Tensor:
    weights_KN = oracle_weights(reps_KND, global_ND, tau)
    result_ND = torch.zeros_like(global_ND)
    for k in range(len(reps_KND)):
        for n in range(len(global_ND)):
            result_ND[n] += weights_KN[k, n] * reps_KND[k, n]
    return result_ND


def fold_in_random_tree(reps_KND: Tensor, global_ND: Tensor, tau: float, rng: random.Random) -> SimilarityEnsemble:
    """Split the clients over workers, fold in any order, move some states as tensors, merge in any tree."""
    order = list(range(len(reps_KND)))
    rng.shuffle(order)
    workers = [SimilarityEnsemble(global_ND, tau) for _ in range(rng.randint(1, len(order) + 1))]
    for k in order:
        rng.choice(workers).add(reps_KND[k])
    while len(workers) > 1:
        taken = workers.pop(rng.randrange(len(workers)))
        if rng.random() < 0.5:
            taken = SimilarityEnsemble.from_state(taken.state())
        rng.choice(workers).merge(taken)
    return workers[0]


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=60, deadline=None)
@given(sizes, st.sampled_from([0.05, 0.1, 1.0, 4.0]), st.integers(0, 10**6))
def test_any_order_split_and_merge_equals_the_formula(
    device: str, size: tuple[int, int, int], tau: float, seed: int
) -> None:
    reps_KND, global_ND = unit_rows(*size, seed=seed), unit_rows(*size[1:], seed=seed + 1)
    ensemble = fold_in_random_tree(reps_KND.to(device), global_ND.to(device), tau, random.Random(seed))
    assert ensemble.count == size[0]
    torch.testing.assert_close(
        ensemble.result().cpu(), oracle_aggregate(reps_KND, global_ND, tau), rtol=1e-10, atol=1e-12
    )


@settings(max_examples=40, deadline=None)
@given(sizes, st.sampled_from([0.01, 0.1, 1.0]), st.floats(0.0, 200.0), st.integers(0, 10**6))
def test_scores_equal_the_formula_for_rows_of_any_length(
    size: tuple[int, int, int], tau: float, length: float, seed: int
) -> None:
    reps_KND, global_ND = length * unit_rows(*size, seed=seed), unit_rows(*size[1:], seed=seed + 1)
    scores_N = similarity_scores(reps_KND[0], global_ND, tau)
    assert scores_N.shape == (size[1],)
    torch.testing.assert_close(scores_N, oracle_scores(reps_KND[:1], global_ND, tau)[0], rtol=1e-10, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(sizes, st.floats(0.02, 10.0), st.integers(0, 10**6))
def test_columns_sum_to_one_and_permuting_clients_permutes_rows(
    size: tuple[int, int, int], tau: float, seed: int
) -> None:
    reps_KND, global_ND = unit_rows(*size, seed=seed), unit_rows(*size[1:], seed=seed + 1)
    weights_KN = similarity_weights(reps_KND, global_ND, tau)
    assert weights_KN.shape == size[:2]
    assert bool((weights_KN >= 0).all())
    torch.testing.assert_close(weights_KN.sum(dim=0), torch.ones(size[1], dtype=torch.float64))
    order = torch.randperm(size[0], generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(similarity_weights(reps_KND[order], global_ND, tau), weights_KN[order])


def test_weights_equal_the_formula() -> None:
    reps_KND, global_ND = unit_rows(3, 17, 32), unit_rows(17, 32, seed=1)
    torch.testing.assert_close(similarity_weights(reps_KND, global_ND, 0.1), oracle_weights(reps_KND, global_ND, 0.1))


def test_permuting_samples_permutes_the_result() -> None:
    reps_KND, global_ND = unit_rows(3, 31, 16), unit_rows(31, 16, seed=1)
    order = torch.randperm(31, generator=torch.Generator().manual_seed(0))
    whole, permuted = SimilarityEnsemble(global_ND, 0.1), SimilarityEnsemble(global_ND[order], 0.1)
    for reps_ND in reps_KND:
        whole.add(reps_ND)
        permuted.add(reps_ND[order])
    torch.testing.assert_close(permuted.result(), whole.result()[order])


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 2), (7, 64), (64, 5), (41, 41)])
def test_block_size_does_not_matter(monkeypatch: pytest.MonkeyPatch, rows: int, columns: int) -> None:
    reps_ND, global_ND = unit_rows(41, 8), unit_rows(41, 8, seed=1)
    for tau in (1.0, 0.001):
        expected_N = similarity_scores(reps_ND, global_ND, tau)
        monkeypatch.setattr(similarity, "_CPU_BLOCK", (rows, columns))
        torch.testing.assert_close(similarity_scores(reps_ND, global_ND, tau), expected_N)
        monkeypatch.undo()


def test_more_samples_than_a_block_equals_torch_log_softmax() -> None:
    reps_ND, global_ND = unit_rows(2600, 12), unit_rows(2600, 12, seed=1)
    for tau in (1.0, 0.005):
        expected_N = (reps_ND @ global_ND.T / tau).log_softmax(dim=1).diagonal()
        torch.testing.assert_close(similarity_scores(reps_ND, global_ND, tau), expected_N)


class LargestTensor(TorchDispatchMode):
    """Watches every operation for the number of values of its largest result."""

    values = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.values = max(self.values, result.numel())
        return result


@pytest.mark.parametrize("tau", [1.0, 0.005])
def test_all_similarities_are_never_held_at_once(tau: float) -> None:
    reps_ND, global_ND = unit_rows(4000, 4, dtype=torch.float32), unit_rows(4000, 4, seed=1, dtype=torch.float32)
    ensemble = SimilarityEnsemble(global_ND, tau)
    with LargestTensor() as watch:  # type: ignore[no-untyped-call]
        ensemble.add(reps_ND)
    assert 0 < watch.values <= 2048 * 512


@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_float32_is_near_float64(tau: float) -> None:
    reps_KND, global_ND = unit_rows(4, 300, 256), unit_rows(300, 256, seed=1)
    ensemble = SimilarityEnsemble(global_ND.float(), tau)
    for reps_ND in reps_KND:
        ensemble.add(reps_ND.float())
    assert ensemble.result().dtype == torch.float32
    exact = SimilarityEnsemble(global_ND, tau)
    for reps_ND in reps_KND:
        exact.add(reps_ND)
    torch.testing.assert_close(ensemble.result().double(), exact.result(), rtol=0, atol=2e-6)


def test_float16_representations_are_computed_in_float32() -> None:
    reps_ND, global_ND = unit_rows(50, 32, dtype=torch.float16), unit_rows(50, 32, seed=1, dtype=torch.float16)
    scores_N = similarity_scores(reps_ND, global_ND, 0.1)
    assert scores_N.dtype == torch.float32
    assert torch.equal(scores_N, similarity_scores(reps_ND.float(), global_ND.float(), 0.1))
    ensemble = SimilarityEnsemble(global_ND, 0.1)
    ensemble.add(reps_ND)
    torch.testing.assert_close(ensemble.result(), reps_ND.float())


@settings(max_examples=30, deadline=None)
@given(st.floats(-12, 12), st.floats(1e-4, 100), st.integers(0, 10**6))
def test_large_inputs_stay_finite(exponent: float, tau: float, seed: int) -> None:
    reps_KND = (10**exponent * unit_rows(3, 9, 8, seed=seed)).float()
    global_ND = unit_rows(9, 8, seed=seed + 1).float()
    weights_KN = similarity_weights(reps_KND, global_ND, tau)
    assert bool(torch.isfinite(weights_KN).all())
    torch.testing.assert_close(weights_KN.sum(dim=0), torch.ones(9))
    ensemble = SimilarityEnsemble(global_ND, tau)
    for reps_ND in reps_KND:
        ensemble.add(reps_ND)
    assert bool(torch.isfinite(ensemble.result()).all())


def test_equal_clients_get_equal_weights_and_their_representations_back() -> None:
    reps_ND, global_ND = unit_rows(20, 16), unit_rows(20, 16, seed=1)
    torch.testing.assert_close(
        similarity_weights(torch.stack([reps_ND] * 4), global_ND), torch.full((4, 20), 0.25, dtype=torch.float64)
    )
    ensemble = SimilarityEnsemble(global_ND)
    for _ in range(4):
        ensemble.add(reps_ND)
    torch.testing.assert_close(ensemble.result(), reps_ND)


def test_a_client_that_knows_the_item_outweighs_one_that_does_not() -> None:
    global_ND = unit_rows(40, 32)
    reps_KND = torch.stack([global_ND, global_ND.roll(1, dims=0)])
    assert bool((similarity_weights(reps_KND, global_ND, 0.1)[0] > 0.9).all())


def test_result_can_be_unit_rows() -> None:
    ensemble = SimilarityEnsemble(unit_rows(20, 16))
    ensemble.add(unit_rows(20, 16, seed=1))
    ensemble.add(unit_rows(20, 16, seed=2))
    torch.testing.assert_close(ensemble.result(normalise=True).norm(dim=1), torch.ones(20, dtype=torch.float64))
    assert bool((ensemble.result().norm(dim=1) < 1).all())


def test_state_round_trip_goes_on_bit_for_bit() -> None:
    reps_KND, global_ND = unit_rows(3, 25, 16, dtype=torch.float32), unit_rows(25, 16, seed=1, dtype=torch.float32)
    ensemble = SimilarityEnsemble(global_ND, 0.1)
    ensemble.add(reps_KND[0])
    state = ensemble.state()
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "running_max": (25,),
        "normaliser": (25,),
        "weighted_sum": (25, 16),
        "count": (),
        "temperature": (),
    }
    read = SimilarityEnsemble.from_state(state, global_ND)
    for reps_ND in reps_KND[1:]:
        ensemble.add(reps_ND)
        read.add(reps_ND)
    assert torch.equal(ensemble.result(), read.result())
    assert torch.equal(SimilarityEnsemble.from_state(state).result(), reps_KND[0])


def test_the_same_states_merged_in_the_same_order_give_the_same_bits() -> None:
    reps_KND, global_ND = unit_rows(3, 25, 16, dtype=torch.float32), unit_rows(25, 16, seed=1, dtype=torch.float32)
    results = []
    for _ in range(2):
        merged = SimilarityEnsemble(global_ND, 0.1)
        for reps_ND in reps_KND:
            single = SimilarityEnsemble(global_ND, 0.1)
            single.add(reps_ND)
            merged.merge(SimilarityEnsemble.from_state(single.state()))
        results.append(merged.result())
    assert torch.equal(*results)


def test_an_empty_ensemble_merges_as_nothing() -> None:
    global_ND = unit_rows(9, 4)
    filled, empty = SimilarityEnsemble(global_ND), SimilarityEnsemble(global_ND)
    filled.add(unit_rows(9, 4, seed=1))
    before = filled.result()
    filled.merge(SimilarityEnsemble.from_state(empty.state()))
    assert torch.equal(filled.result(), before)
    empty.merge(filled)
    torch.testing.assert_close(empty.result(), before)
    assert empty.count == 1


def test_merge_leaves_the_other_as_it_is() -> None:
    first, second = SimilarityEnsemble(unit_rows(9, 4)), SimilarityEnsemble(unit_rows(9, 4))
    first.add(unit_rows(9, 4, seed=1))
    second.add(unit_rows(9, 4, seed=2))
    before = second.result()
    first.merge(second)
    assert torch.equal(second.result(), before)


@settings(max_examples=30, deadline=None)
@given(sizes, st.integers(0, 10**6))
def test_mean_ensemble_is_the_uniform_mean_in_the_same_state(size: tuple[int, int, int], seed: int) -> None:
    reps_KND, global_ND = unit_rows(*size, seed=seed), unit_rows(*size[1:], seed=seed + 1)
    first, second = MeanEnsemble(global_ND), MeanEnsemble(global_ND)
    for k, reps_ND in enumerate(reps_KND):
        (first if k % 2 else second).add(reps_ND)
    first.merge(SimilarityEnsemble.from_state(second.state()))
    read = SimilarityEnsemble.from_state(first.state(), global_ND)
    assert isinstance(read, MeanEnsemble)
    torch.testing.assert_close(read.result(), reps_KND.mean(dim=0))


def test_golden_values() -> None:
    global_ND = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    reps_KND = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.6, 0.8]]])
    # s_1(0) = 1 - ln(e + 1), s_2(0) = 0.6 - ln(e^0.6 + e^0.8), s_1(1) = s_1(0), s_2(1) = 0.8 - ln(e^0.6 + e^0.8)
    assert similarity_scores(reps_KND[0], global_ND).tolist() == pytest.approx([-0.3132617, -0.3132617], abs=1e-6)
    assert similarity_scores(reps_KND[1], global_ND).tolist() == pytest.approx([-0.7981389, -0.5981389], abs=1e-6)
    weights_KN = similarity_weights(reps_KND, global_ND)
    assert weights_KN[0].tolist() == pytest.approx([0.6188989, 0.5707415], abs=1e-6)
    ensemble = SimilarityEnsemble(global_ND)
    for reps_ND in reps_KND:
        ensemble.add(reps_ND)
    assert ensemble.result()[0].tolist() == pytest.approx([0.8475596, 0.3048809], abs=1e-6)


def test_bfloat16_similarities_stay_near_the_exact_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    global_ND = torch.nn.functional.normalize(torch.randn(700, 256, generator=generator), dim=1)
    reps_ND = torch.nn.functional.normalize(global_ND + 0.1 * torch.randn(700, 256, generator=generator), dim=1)
    exact, near = SimilarityEnsemble(global_ND, 0.1), SimilarityEnsemble(global_ND, 0.1, precision="bfloat16")
    for ensemble in (exact, near):
        ensemble.add(reps_ND)
        ensemble.add(reps_ND.flip(0))
    before = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
    torch.testing.assert_close(near.state()["running_max"], exact.state()["running_max"], atol=5e-3, rtol=0)
    torch.testing.assert_close(near.result(), exact.result(), atol=5e-3, rtol=0)
    assert torch.backends.mkldnn.matmul.fp32_precision == before  # type: ignore[attr-defined]


def test_float64_is_never_rounded() -> None:
    global_ND = torch.nn.functional.normalize(torch.randn(50, 8, dtype=torch.float64), dim=1)
    exact, near = SimilarityEnsemble(global_ND, 0.1), SimilarityEnsemble(global_ND, 0.1, precision="bfloat16")
    for ensemble in (exact, near):
        ensemble.add(global_ND.flip(0))
    assert torch.equal(exact.result(), near.result())
