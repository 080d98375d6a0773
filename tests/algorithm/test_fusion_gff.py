"""GFF against a loop over positions and channels, its two limits, the gate and its calibration."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fedafd.algorithm.checks import InvalidTensorError
from fedafd.algorithm.fusion import GATE_OFFSETS, GranularityAwareFusion, calibrate_gate


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fusion(dim: int = 8, seed: int = 0, **options: Any) -> GranularityAwareFusion:
    torch.manual_seed(seed)
    return GranularityAwareFusion(dim, **{"zero_init": False, "normalise_output": False, **options}).double()


def oracle_branch(module: torch.nn.Module, prefix: str, x: list[float]) -> list[float]:
    """Linear, ReLU, Linear of one vector, in Python floats."""
    weights = {
        name.removeprefix(prefix): value.tolist()
        for name, value in module.state_dict().items()
        if name.startswith(prefix)
    }

    def linear(name: str, v: list[float]) -> list[float]:
        pairs = zip(weights[f"{name}.weight"], weights[f"{name}.bias"], strict=True)
        return [sum(w * value for w, value in zip(row, v, strict=True)) + bias for row, bias in pairs]

    return linear("expand", [max(value, 0.0) for value in linear("squeeze", x)])


def oracle_fuse(
    module: GranularityAwareFusion, local: list[list[float]], global_: list[list[float]], weights: list[float]
) -> list[float]:
    """One sample, position by position and channel by channel; positions of weight 0 are left out."""
    positions = [p for p, weight in enumerate(weights) if weight > 0]
    dim, total = len(local[0]), sum(weights)

    def pooled(z: dict[int, list[float]]) -> list[float]:
        return [sum(weights[p] * z[p][d] for p in positions) / total for d in range(dim)]

    z = {p: [a + b for a, b in zip(local[p], global_[p], strict=True)] for p in positions}
    for stage in range(2):
        coarse = oracle_branch(module, f"stages.{stage}.coarse.", pooled(z))
        mixed = {}
        for p in positions:
            fine = oracle_branch(module, f"stages.{stage}.fine.", z[p])
            gates = [1 / (1 + math.exp(-(fine[d] + coarse[d] + module.gate_offset.item()))) for d in range(dim)]
            mixed[p] = [gates[d] * local[p][d] + (1 - gates[d]) * global_[p][d] for d in range(dim)]
        z = mixed
    return pooled(z)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.sampled_from([4, 8, 12]), st.floats(-3, 3), st.integers(0, 10**6))
def test_vector_fusion_equals_the_definition(batch: int, dim: int, offset: float, seed: int) -> None:
    module = fusion(dim, seed)
    module.set_gate_offset(offset)
    local_BD, global_BD = rows(batch, dim, seed=seed), rows(batch, dim, seed=seed + 1)
    expected = [
        oracle_fuse(module, [x], [r], [1.0]) for x, r in zip(local_BD.tolist(), global_BD.tolist(), strict=True)
    ]
    torch.testing.assert_close(module(local_BD, global_BD), torch.tensor(expected, dtype=torch.float64))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.booleans(), st.booleans(), st.integers(0, 10**6))
def test_token_fusion_equals_the_definition(
    batch: int, positions: int, masked: bool, global_tokens: bool, seed: int
) -> None:
    module = fusion(8, seed, mode="tokens")
    local_BPD = rows(batch, positions, 8, seed=seed)
    global_BPD = rows(batch, positions if global_tokens else 1, 8, seed=seed + 1).expand(batch, positions, 8)
    weights_BP = rows(batch, positions, seed=seed + 2).abs()
    if masked:
        weights_BP = (weights_BP > 0.7).double()
        weights_BP[:, 0] = 1
    expected = [
        oracle_fuse(module, x, r, w)
        for x, r, w in zip(local_BPD.tolist(), global_BPD.tolist(), weights_BP.tolist(), strict=True)
    ]
    actual_BD = module(
        local_BPD, global_BPD if global_tokens else global_BPD[:, 0], weights_BP.bool() if masked else weights_BP
    )
    torch.testing.assert_close(actual_BD, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("inner_norm", [False, True])
def test_padding_changes_nothing(inner_norm: bool) -> None:
    module = fusion(8, mode="tokens", inner_norm=inner_norm)
    local_BPD, global_BD = rows(4, 3, 8), rows(4, 8, seed=1)
    mask_BP = torch.tensor([[True, True, True, False, False]]).expand(4, 5)
    padded_BPD = torch.cat([local_BPD, 1e3 * rows(4, 2, 8, seed=2)], dim=1)
    expected_BD = module(local_BPD, global_BD)
    torch.testing.assert_close(module(padded_BPD, global_BD, mask_BP), expected_BD)
    padded_BPD.requires_grad_()
    torch.autograd.backward(module(padded_BPD, global_BD, mask_BP).sum())
    assert padded_BPD.grad is not None
    assert not padded_BPD.grad[:, 3:].any()


@pytest.mark.parametrize("mode", ["vector", "tokens"])
@pytest.mark.parametrize("normalise", [False, True])
def test_infinite_offsets_give_one_side_exactly(mode: str, normalise: bool) -> None:
    module = fusion(8, mode=mode, normalise_output=normalise)
    local = rows(5, 8) if mode == "vector" else rows(5, 3, 8)
    weights_BP = None if mode == "vector" else rows(5, 3, seed=3).abs()
    local_BD = local if weights_BP is None else (local * weights_BP[..., None]).sum(1) / weights_BP.sum(1, keepdim=True)
    global_BD = rows(5, 8, seed=1)
    for offset, side_BD in ((math.inf, local_BD), (-math.inf, global_BD)):
        module.set_gate_offset(offset)
        fused_BD = module(local, global_BD, weights_BP)
        torch.testing.assert_close(fused_BD, F.normalize(side_BD, dim=1) if normalise else side_BD)


@pytest.mark.parametrize("inner_norm", [False, True])
@pytest.mark.parametrize("gate_init", [-1.5, 0.0])
def test_zero_initialised_gate_starts_at_its_logit_everywhere(inner_norm: bool, gate_init: float) -> None:
    module = fusion(8, zero_init=True, inner_norm=inner_norm, gate_init=gate_init)
    local_BD, global_BD = rows(6, 8), rows(6, 8, seed=1)
    gate = 1 / (1 + math.exp(-gate_init))
    torch.testing.assert_close(module(local_BD, global_BD), gate * local_BD + (1 - gate) * global_BD)


@settings(max_examples=25, deadline=None)
@given(st.floats(-6, 6), st.integers(0, 10**6))
def test_the_fused_feature_lies_between_its_two_sides(offset: float, seed: int) -> None:
    module = fusion(8, seed)
    module.set_gate_offset(offset)
    local_BD, global_BD = rows(5, 8, seed=seed), rows(5, 8, seed=seed + 1)
    fused_BD = module(local_BD, global_BD)
    assert bool((fused_BD <= torch.maximum(local_BD, global_BD) + 1e-12).all())
    assert bool((fused_BD >= torch.minimum(local_BD, global_BD) - 1e-12).all())


def test_output_is_unit_rows_by_default() -> None:
    fused_BD = GranularityAwareFusion(8)(rows(5, 8).float(), rows(5, 8, seed=1).float())
    torch.testing.assert_close(fused_BD.norm(dim=1), torch.ones(5))


def test_permuting_samples_permutes_the_output() -> None:
    module, local_BPD, global_BD = fusion(8, mode="tokens"), rows(4, 3, 8), rows(4, 8, seed=1)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(module(local_BPD[order], global_BD[order]), module(local_BPD, global_BD)[order])


def test_permuting_positions_changes_nothing() -> None:
    module, local_BPD, global_BPD = fusion(8, mode="tokens"), rows(4, 3, 8), rows(4, 3, 8, seed=1)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(module(local_BPD[:, order], global_BPD[:, order]), module(local_BPD, global_BPD))


@pytest.mark.parametrize("mode", ["vector", "tokens"])
def test_gradients_equal_finite_differences(mode: str) -> None:
    module = fusion(4, mode=mode)
    local = rows(2, 4) if mode == "vector" else rows(2, 3, 4)
    assert torch.autograd.gradcheck(module, [local.requires_grad_(), rows(2, 4, seed=1).requires_grad_()])


def test_each_stage_has_its_own_branches() -> None:
    module = fusion(8)
    torch.autograd.backward(module(rows(3, 8), rows(3, 8, seed=1)).sum())
    parameters = list(module.parameters())
    assert len(parameters) == 2 * 2 * 4
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in parameters)
    assert {tuple(value.shape) for name, value in module.named_parameters() if "squeeze.weight" in name} == {(2, 8)}


def test_fine_and_coarse_see_different_things_when_there_are_positions() -> None:
    module = fusion(8, mode="tokens", zero_init=True)
    with torch.no_grad():
        for name, value in module.named_parameters():
            if name.endswith("fine.expand.weight"):
                value.copy_(rows(8, 2, seed=5))
    even_BPD, uneven_BPD = rows(4, 1, 8).expand(4, 3, 8), rows(4, 3, 8)
    uneven_BPD = uneven_BPD - uneven_BPD.mean(1, keepdim=True) + even_BPD
    global_BD = rows(4, 8, seed=1)
    assert not torch.allclose(module(even_BPD, global_BD), module(uneven_BPD, global_BD))


def test_state_round_trip_keeps_the_calibrated_gate() -> None:
    module, other = fusion(8, seed=0, inner_norm=True), fusion(8, seed=1, inner_norm=True)
    module(rows(6, 8), rows(6, 8, seed=1))
    module.set_gate_offset(-math.inf)
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert other.gate_offset.item() == -math.inf
    assert torch.equal(other.eval()(rows(3, 8), rows(3, 8, seed=1)), module.eval()(rows(3, 8), rows(3, 8, seed=1)))


@pytest.mark.parametrize("size", [1e-20, 1e-3, 1e6, 1e15])
def test_large_and_small_inputs_stay_finite(size: float) -> None:
    module = GranularityAwareFusion(8, zero_init=False)
    local_BD = (size * rows(4, 8)).float().requires_grad_()
    fused_BD = module(local_BD, (size * rows(4, 8, seed=1)).float())
    torch.autograd.backward(fused_BD.sum())
    assert bool(torch.isfinite(fused_BD).all())
    assert local_BD.grad is not None
    assert bool(torch.isfinite(local_BD.grad).all())


def test_calibration_takes_the_best_offset_and_of_equals_the_nearest_to_zero() -> None:
    module = fusion(8)
    same = torch.ones(5)
    assert calibrate_gate(module, lambda: -same * math.atan(abs(module.gate_offset.item() - 1.9))) == 2.0
    assert module.gate_offset.item() == 2.0
    assert calibrate_gate(module, lambda: same) == 0.0
    assert calibrate_gate(module, lambda: same, (2.0, 1.0, -1.0, -2.0)) == -1.0
    assert calibrate_gate(module, lambda: -same * math.atan(module.gate_offset.item())) == -math.inf
    assert {-math.inf, 0.0, math.inf} <= set(GATE_OFFSETS)


def test_a_gain_within_two_standard_errors_does_not_move_the_gate() -> None:
    module = fusion(8)
    chance = torch.tensor([3.0, -1.0, 3.0, -1.0])  # mean 1, standard error 1.15
    sure = torch.tensor([3.0, 1.0, 3.0, 1.0])  # mean 2, standard error 0.58

    def on_the_global_side(gain: Tensor) -> Tensor:
        return gain if module.gate_offset.item() == -math.inf else torch.zeros(4)

    assert calibrate_gate(module, lambda: on_the_global_side(chance)) == 0.0
    assert calibrate_gate(module, lambda: on_the_global_side(sure)) == -math.inf
    below = torch.full((4,), 9.0)
    assert calibrate_gate(module, lambda: on_the_global_side(chance) + below * (module.gate_offset.item() < 0)) == -0.5


def test_calibrated_fusion_is_as_good_as_the_global_side() -> None:
    module = fusion(8, gate_init=2.0)
    local_BD, global_BD = rows(20, 8), rows(20, 8, seed=1)

    def score() -> Tensor:
        scores: Tensor = -(module(local_BD, global_BD) - global_BD).square().sum(dim=1).detach()
        return scores

    assert calibrate_gate(module, score) == -math.inf
    assert float(score().sum()) == 0.0


def test_wrong_shapes_modes_and_offsets_are_refused() -> None:
    vector, tokens = fusion(8), fusion(8, mode="tokens")
    with pytest.raises(InvalidTensorError, match=r"local: expected shape \[any, 8\], got \[4, 7\]"):
        vector(rows(4, 7), rows(4, 8))
    with pytest.raises(InvalidTensorError, match=r"global: expected shape \[4, 8\], got \[3, 8\]"):
        vector(rows(4, 8), rows(3, 8))
    with pytest.raises(InvalidTensorError, match="local"):
        tokens(rows(4, 8), rows(4, 8))
    with pytest.raises(InvalidTensorError, match="global"):
        tokens(rows(4, 3, 8), rows(4, 2, 8))
    with pytest.raises(InvalidTensorError, match="weights_BP"):
        tokens(rows(4, 3, 8), rows(4, 8), torch.ones(4, 2))
    with pytest.raises(ValueError, match="mode"):
        GranularityAwareFusion(8, mode="pixels")
    with pytest.raises(InvalidTensorError, match="NaN"):
        vector.set_gate_offset(math.nan)
    with pytest.raises(InvalidTensorError, match="offsets"):
        calibrate_gate(vector, lambda: torch.zeros(2), ())
    with pytest.raises(InvalidTensorError, match="2 of 2 values are not finite"):
        calibrate_gate(vector, lambda: torch.full((2,), math.nan))


@pytest.mark.parametrize("inner_norm", [False, True])
def test_fusion_works_under_autocast(inner_norm: bool) -> None:
    module = GranularityAwareFusion(8, mode="tokens", inner_norm=inner_norm, zero_init=False)
    local_BPD, global_BD = rows(4, 3, 8).float(), rows(4, 8, seed=1).float()
    mask_BP = torch.tensor([[True, True, False]]).expand(4, 3)
    expected_BD = module(local_BPD, global_BD, mask_BP)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(module(local_BPD, global_BD, mask_BP).float(), expected_BD, rtol=0, atol=0.03)
