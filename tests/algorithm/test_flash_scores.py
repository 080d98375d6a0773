"""SED's scores by a flash attention kernel: within the bound of the float64 ones, by the CPU's kernel of the kind."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.devices import CUDA
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from fedafd.algorithm import distillation, similarity
from fedafd.algorithm import flash_scores as module
from fedafd.algorithm.distillation import SimilarityEnsemble
from fedafd.algorithm.flash_scores import corrected, flash_scores, logit_error
from fedafd.domain.config import DistillationConfig, FederationConfig


def rows(count: int, dim: int, seed: int, norm: float = 1.0, near: Tensor | None = None) -> Tensor:
    values = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
    values = values if near is None else near / near.norm(dim=1, keepdim=True) + 0.3 * values / math.sqrt(dim)
    return norm * F.normalize(values, dim=1)


def exact(reps_ND: Tensor, global_ND: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Scores in float64, and the share of the own similarity."""
    logits_NN = reps_ND.double() @ global_ND.double().T / tau
    scores_N = logits_NN.log_softmax(dim=1).diagonal()
    return scores_N, scores_N.exp()


def exact_own(reps_ND: Tensor, global_ND: Tensor, tau: float) -> Tensor:
    return (reps_ND.double() * global_ND.double()).sum(dim=1) / tau


def norms(*each: Tensor) -> tuple[float, float]:
    left, right = (float(rows_ND.norm(dim=1).max()) for rows_ND in each)
    return left, right


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 70),
    dim=st.sampled_from([1, 3, 8, 17, 64, 256]),
    tau=st.sampled_from([0.02, 0.1, 1.0]),
    norm=st.sampled_from([1.0, 1e-6, 3e5, 0.7]),
    seed=st.integers(0, 99),
)
def test_a_score_is_within_the_bound_of_the_exact_one(count: int, dim: int, tau: float, norm: float, seed: int) -> None:
    global_ND = rows(count, dim, seed)
    reps_ND = rows(count, dim, seed + 1, norm, near=global_ND)
    longest, warmth = norms(reps_ND, global_ND), tau * norm
    found_N = flash_scores(reps_ND, global_ND, global_ND, warmth, longest)
    expected_N, share_N = exact(reps_ND, global_ND, warmth)
    bound_N = (1 - share_N) * math.expm1(logit_error(dim, longest, warmth))
    # The own similarity, the exponentials and their sum are float32.
    bound_N += (dim + 64) * 2**-24 * (1 + 1 / tau)
    assert ((found_N - expected_N).abs() <= bound_N).all()


def test_putting_the_own_similarity_right_makes_scores_better() -> None:
    tau = 0.1
    global_ND = rows(200, 8, 1)
    reps_ND = rows(200, 8, 2, near=global_ND)
    found_N = flash_scores(reps_ND, global_ND, global_ND, tau, norms(reps_ND, global_ND))
    expected_N, _ = exact(reps_ND, global_ND, tau)
    halves = reps_ND.half().double() @ global_ND.half().double().T / tau
    left_alone_N = exact_own(reps_ND, global_ND, tau) - halves.logsumexp(dim=1)
    assert (found_N - expected_N).abs().mean() < 0.7 * (left_alone_N - expected_N).abs().mean()


@pytest.mark.parametrize("own", [-30.0, 0.0, 9.0, 80.0])
def test_one_logit_of_a_sum_is_replaced_however_much_of_it_it_is(own: float) -> None:
    others = torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64)
    rounded, right = torch.tensor([own + 0.01]), torch.tensor([own])
    summed = torch.logsumexp(torch.cat([others, rounded.double()]), 0, keepdim=True).float()
    expected = torch.logsumexp(torch.cat([others, right.double()]), 0, keepdim=True).float()
    torch.testing.assert_close(corrected(summed, rounded, right), expected, atol=1e-5, rtol=1e-6)


def test_rows_of_several_clients_and_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    global_ND = rows(40, 16, 3)
    clients = [rows(40, 16, seed, near=global_ND) for seed in (4, 5, 6)]
    apart = torch.cat([flash_scores(reps, global_ND, global_ND, 0.1, (1.0, 1.0)) for reps in clients])
    monkeypatch.setattr(module, "_ROWS", 33)
    together = flash_scores(torch.cat(clients), global_ND.repeat(3, 1), global_ND, 0.1, (1.0, 1.0))
    torch.testing.assert_close(together, apart, atol=2e-6, rtol=1e-6)


class Launches(TorchDispatchMode):
    """Notes the names of all operators but views."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if not func.is_view and func.namespace == "aten":
            self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_a_gpu_is_asked_once_whatever_the_number_of_samples() -> None:
    with FakeTensorMode(), Launches() as launches:
        reps_ND, global_ND = (torch.empty(50_000, 200, device="cuda") for _ in range(2))
        launches.names.clear()
        scores_N = flash_scores(reps_ND, global_ND, global_ND, 0.1, (1.0, 1.0))
        assert scores_N.shape == (50_000,)
        assert scores_N.device.type == "cuda"
        assert scores_N.dtype == torch.float32
    assert launches.names.count("_scaled_dot_product_flash_attention") == 1
    assert len(launches.names) <= 32
    assert not {"_local_scalar_dense", "nonzero", "is_nonzero"} & set(launches.names)


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_an_ensemble_takes_the_kernel_where_rows_may_be_rounded_and_it_fits(
    monkeypatch: pytest.MonkeyPatch, precision: similarity.Precision
) -> None:
    global_ND = rows(60, 256, 7)
    reps_ND = rows(60, 256, 8, near=global_ND)
    monkeypatch.setattr(similarity, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(similarity, "fits", lambda global_ND: True)
    ensemble = SimilarityEnsemble(global_ND, 0.1, precision=precision)
    with Launches() as launches:
        ensemble.add(reps_ND)
    kernel = "_scaled_dot_product_flash_attention_for_cpu"
    assert launches.names.count(kernel) == (1 if precision == "bfloat16" else 0)
    expected_N, _ = exact(reps_ND, global_ND, 0.1)
    torch.testing.assert_close(ensemble.state()["running_max"].double(), expected_N, atol=2e-5, rtol=0)


@pytest.mark.parametrize("has_kernel", [True, False])
def test_auto_takes_the_kernel_where_there_is_one_and_rounds_nothing_elsewhere(
    monkeypatch: pytest.MonkeyPatch, has_kernel: bool
) -> None:
    global_ND = rows(60, 256, 7)
    reps_ND = rows(60, 256, 8, near=global_ND)
    monkeypatch.setattr(similarity, "has_bfloat16", lambda device: True)
    if has_kernel:
        for module_ in (similarity, distillation):
            monkeypatch.setattr(module_, "fits", lambda global_ND: True)
    made = {}
    for precision in ("auto", "float32"):
        ensemble = SimilarityEnsemble(global_ND, 0.1, precision=precision)
        with Launches() as launches:
            ensemble.add(reps_ND)
        taken = "_scaled_dot_product_flash_attention_for_cpu" in launches.names
        assert taken is (has_kernel and precision == "auto")
        made[precision] = ensemble.state()
    if not has_kernel:
        for name, value in made["auto"].items():
            assert torch.equal(value, made["float32"][name]), name


def test_by_default_precision_is_left_to_the_hardware() -> None:
    assert DistillationConfig().precision == "auto"
    assert (
        FederationConfig.model_validate({"name": "f", "distillation": {"precision": "float32"}}).distillation.precision
        == "float32"
    )


@pytest.mark.parametrize("device", [CUDA])
def test_on_a_gpu_the_ensemble_of_rounded_rows_is_near_the_exact_one(device: str) -> None:
    global_ND = rows(3000, 256, 7)
    exact_one, near = (
        SimilarityEnsemble(global_ND.to(device), 0.1),
        SimilarityEnsemble(global_ND.to(device), 0.1, precision="bfloat16"),
    )
    for seed in (8, 9):
        reps_ND = rows(3000, 256, seed, near=global_ND).to(device)
        exact_one.add(reps_ND)
        near.add(reps_ND)
    torch.testing.assert_close(near.result(), exact_one.result(), atol=2e-4, rtol=0)
