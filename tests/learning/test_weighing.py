"""Weighing on bytes: what merges need of it, what is told of each client, and a copy's weight with and without it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save

from fedafd.algorithm.checks import InvalidTensorError
from fedafd.domain.config import FederationConfig, parse_federation_config
from fedafd.domain.kinds import Modality
from fedafd.domain.merge_tree import Branch
from fedafd.learning.ensemble import aggregate, fold_state, merge_states
from fedafd.learning.weighing import Weighed, score_sheet, weigh

N, D = 60, 16
Rows = NDArray[np.float32]
IMAGE = Modality.IMAGE


def config(**distillation: Any) -> FederationConfig:
    return parse_federation_config({"name": "trial", "embedding_dim": D, "distillation": distillation})


def unit(rows: NDArray[Any]) -> Rows:
    made: Rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return made


GLOBAL = {m: unit(np.random.default_rng(place).normal(size=(N, D))) for place, m in enumerate(Modality)}
CENTRED = unit(GLOBAL[IMAGE] - GLOBAL[IMAGE].mean(axis=0))
SEEN = np.random.default_rng(9).normal(size=(N, D))


def honest(seed: int) -> Rows:
    return unit(CENTRED + 0.4 * SEEN + 0.3 * np.random.default_rng(seed).normal(size=(N, D)))


def states_of(chosen: FederationConfig, clients: Sequence[Rows]) -> list[bytes]:
    return [fold_state(chosen, IMAGE, rows, GLOBAL) for rows in clients]


def weighed(chosen: FederationConfig, states: Sequence[bytes]) -> Weighed:
    return weigh(chosen, [score_sheet(chosen, IMAGE, state, GLOBAL) for state in states])


@pytest.mark.parametrize("tau", [0.02, 0.1])
def test_a_copy_weighs_most_without_a_cap_and_no_more_than_two_shares_with_it(tau: float) -> None:
    clients = [CENTRED, *(honest(seed) for seed in range(20, 29))]
    plain = config(temperature=tau, weight_cap=1.0, leave_out_copies=False)
    capped = config(temperature=tau, leave_out_copies=False)
    first, *others = weighed(plain, states_of(plain, clients)).contributions
    assert first.weight > 2 * max(each.weight for each in others)
    shares = weighed(capped, states_of(capped, clients)).contributions
    assert max(each.weight for each in shares) <= 0.2 + 1e-9
    assert sum(each.weight for each in shares) == pytest.approx(1)
    found = weighed(config(temperature=tau), states_of(capped, clients)).contributions
    assert [each.left_out for each in found] == [True] + [False] * 9
    assert found[0].weight == 0
    assert found[0].similarity == pytest.approx(1, abs=1e-6)
    assert found[0].agreement == pytest.approx(0, abs=1e-6)
    assert min(each.agreement or 0 for each in found[1:]) > 0.3


def test_with_a_strict_cap_three_of_ten_weigh_at_most_thirty_five_percent_whatever_they_mix_in() -> None:
    chosen = config(leave_out_copies=False, weight_cap="strict", temperature=0.02)
    clients = [unit(CENTRED + 0.5 * honest(seed)) for seed in range(3)] + [honest(seed) for seed in range(20, 27)]
    weights = [each.weight for each in weighed(chosen, states_of(chosen, clients)).contributions]
    assert sum(weights) == pytest.approx(1)
    assert 0.34 < sum(weights[:3]) <= 0.35 + 1e-9


def test_the_merged_states_hold_the_weights_that_are_told() -> None:
    chosen = config(leave_out_copies=False, normalise_aggregate=False, weight_cap=0.15)
    clients = [CENTRED, *(honest(seed) for seed in range(20, 29))]
    states = states_of(chosen, clients)
    found = weighed(chosen, states)
    merged = merge_states([merge_states(states[:8], found.limit), merge_states(states[8:], found.limit)], found.limit)
    one_hot = merge_states(states, found.limit)
    np.testing.assert_allclose(aggregate(chosen, merged), aggregate(chosen, one_hot), rtol=0, atol=1e-6)
    state, limit = load(merged), load(found.limit)
    total_N = state["running_max"].double() + state["normaliser"].double().log()
    np.testing.assert_allclose(total_N.numpy(), limit["limit"].numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"weight_cap": None},
        {"weight_cap": "strict"},
        {"trimmed_share": 0.3},
        {"ensemble": "mean"},
        {"temperature": 0.02},
    ],
)
def test_several_levels_merged_at_once_have_the_bits_of_one_after_the_other(given: dict[str, Any]) -> None:
    chosen = config(**{"leave_out_copies": False} | given)
    states = states_of(chosen, [CENTRED, *(honest(seed) for seed in range(20, 39))])
    limit = weighed(chosen, states).limit if chosen.distillation.caps_weights else None

    def merged(*parts: bytes) -> bytes:
        return merge_states(parts, limit)

    levels = merged(merged(*states[:8]), merged(merged(*states[8:11]), merged(*states[11:16])), *states[16:])
    tree: tuple[Branch[bytes], ...] = (tuple(states[:8]), (tuple(states[8:11]), tuple(states[11:16])), *states[16:])
    assert merge_states(tree, limit) == levels


def test_one_and_two_clients_merge_to_the_bits_of_no_cap() -> None:
    chosen = config()
    for count in (1, 2):
        states = states_of(chosen, [honest(2), honest(3)][:count])
        found = weighed(chosen, states)
        assert merge_states(states, found.limit) == merge_states(states)
        assert sum(each.weight for each in found.contributions) == pytest.approx(1)


def test_a_stale_delivery_keeps_its_lower_weight() -> None:
    chosen = config(staleness_decay=0.1)
    rows = [honest(seed) for seed in range(3)]
    fresh = states_of(chosen, rows)
    stale = [*fresh[:2], fold_state(chosen, IMAGE, rows[2], GLOBAL, staleness=2)]
    one, other = (weighed(chosen, states).contributions[2].weight for states in (fresh, stale))
    assert 0 < other < one / 20
    assert weighed(chosen, stale).contributions[2].similarity == pytest.approx(
        weighed(chosen, fresh).contributions[2].similarity
    )


def test_a_region_has_the_cap_of_all_its_clients_and_no_agreement() -> None:
    chosen = config(weight_cap=0.25)
    states = states_of(chosen, [CENTRED, *(honest(seed) for seed in range(4))])
    region = merge_states(states[:2])
    sheets = [score_sheet(chosen, IMAGE, region), *(score_sheet(chosen, IMAGE, s, GLOBAL) for s in states[2:])]
    found = weigh(chosen, sheets).contributions
    assert found[0].weight <= 0.5 + 1e-9
    assert max(each.weight for each in found[1:]) <= 0.25 + 1e-9
    assert (found[0].similarity, found[0].agreement, found[0].left_out) == (None, None, False)


def test_who_is_left_out_leaves_the_cap_of_those_who_stay() -> None:
    chosen = config()
    clients = [CENTRED, CENTRED, *(honest(seed) for seed in range(20, 26))]
    found = weighed(chosen, states_of(chosen, clients))
    assert [each.left_out for each in found.contributions] == [True, True] + [False] * 6
    assert float(load(found.limit)["share"]) == pytest.approx(2 / 6)
    assert sum(each.weight for each in found.contributions) == pytest.approx(1)


def planted(rows: Rows) -> Rows:
    """Another row on the first three samples, the same of all who plant."""
    false = rows.copy()
    false[:3] = unit(np.random.default_rng(77).normal(size=(1, D)))
    return false


@pytest.mark.parametrize("cap", ["auto", 0.1])
def test_rows_that_agree_least_weigh_nothing_and_merges_hold_what_is_told(cap: Any) -> None:
    chosen = config(leave_out_copies=False, normalise_aggregate=False, weight_cap=cap, trimmed_share=0.3)
    clients = [honest(seed) for seed in range(20, 30)]
    bad = (1, 4, 7)
    attacked = [planted(rows) if place in bad else rows for place, rows in enumerate(clients)]
    states = states_of(chosen, attacked)
    found = weighed(chosen, states)
    assert sum(each.weight for each in found.contributions) == pytest.approx(1)
    left = [states[:3], states[3:7], states[7:]]
    merged = merge_states([merge_states(part, found.limit) for part in left], found.limit)
    at_once = merge_states(states, found.limit)
    np.testing.assert_allclose(aggregate(chosen, merged), aggregate(chosen, at_once), rtol=0, atol=1e-6)
    # On the planted samples the ensemble is that of the honest clients alone, who have no others trimmed there.
    honest_ones = config(
        leave_out_copies=False, normalise_aggregate=False, weight_cap=max(0.2, 1 / 7) if cap == "auto" else 1 / 7
    )
    rest = states_of(honest_ones, [rows for place, rows in enumerate(clients) if place not in bad])
    expected = aggregate(honest_ones, merge_states(rest, weighed(honest_ones, rest).limit))
    np.testing.assert_allclose(aggregate(chosen, merged)[:3], expected[:3], rtol=0, atol=1e-5)
    untrimmed = config(leave_out_copies=False, normalise_aggregate=False, weight_cap=cap)
    plain = states_of(untrimmed, attacked)
    pulled = aggregate(untrimmed, merge_states(plain, weighed(untrimmed, plain).limit))
    assert np.abs(pulled[:3] - expected[:3]).max() > 0.05


def test_a_limit_that_does_not_fit_is_refused() -> None:
    chosen = config(trimmed_share=0.3)
    states = states_of(chosen, [honest(seed) for seed in range(20, 26)])
    limit = load(weighed(chosen, states).limit)
    for bad in (torch.zeros(N - 1, dtype=torch.bool), torch.zeros(N)):
        wrong = save({name: bad.clone() if name.startswith("trimmed/") else value for name, value in limit.items()})
        with pytest.raises(InvalidTensorError, match="samples_N: expected bool"):
            merge_states(states, wrong)


def test_equal_states_are_trimmed_alike_and_nothing_is_trimmed_among_four() -> None:
    chosen = config(leave_out_copies=False, trimmed_share=0.3)
    twice = states_of(chosen, [honest(20), honest(20), *(honest(seed) for seed in range(21, 26))])
    found = weighed(chosen, twice)
    assert found.contributions[0] == found.contributions[1]
    assert sum(each.weight for each in found.contributions) == pytest.approx(1)
    four = states_of(chosen, [honest(seed) for seed in range(20, 24)])
    assert set(load(weighed(chosen, four).limit)) == {"limit", "share"}


def test_without_trimming_sheets_and_limits_are_what_they_were() -> None:
    chosen = config()
    states = states_of(chosen, [honest(seed) for seed in range(20, 26)])
    assert set(load(score_sheet(chosen, IMAGE, states[0], GLOBAL))) == {"added", "count", "scores", "similarity"}
    assert set(load(weighed(chosen, states).limit)) == {"limit", "share"}


def test_a_sheet_in_float32_of_an_older_distiller_is_weighed_beside_new_ones() -> None:
    chosen = config()
    states = states_of(chosen, [honest(seed) for seed in range(20, 26)])
    sheets = [score_sheet(chosen, IMAGE, state, GLOBAL) for state in states]
    older = load(sheets[0])
    assert older["added"].dtype == torch.float16
    older["added"] = older["added"].float()
    assert weigh(chosen, [save(older), *sheets[1:]]) == weigh(chosen, sheets)
