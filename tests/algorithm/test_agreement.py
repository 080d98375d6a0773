"""What clients add to the global representations: honest ones agree, copies do not, and unusual sites are not meant."""

from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fedafd.algorithm import agreement
from fedafd.algorithm.agreement import (
    FEWEST_CLIENTS,
    added,
    adding_nothing,
    agreements,
    least_agreeing,
    mean_similarity,
    near_copies,
    num_trimmed,
)
from fedafd.algorithm.checks import InvalidTensorError

SAMPLES, DIM = 200, 32


def unit(*shape: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


GLOBAL = unit(SAMPLES, DIM, seed=0)
SEEN = unit(SAMPLES, DIM, seed=1)
"""What every honest client sees in the public samples."""


def honest(seed: int, near: float = 0.3, common: float = 0.5) -> Tensor:
    """A client that is `near` the global representations and has `common` of what the others see."""
    return F.normalize(near * GLOBAL + common * SEEN + 0.8 * unit(SAMPLES, DIM, seed=seed), dim=1)


def mixed(share: float = 0.9) -> Tensor:
    """The global representations with another item's mixed in."""
    return F.normalize(GLOBAL + share * GLOBAL.roll(1, dims=0), dim=1)


def found(clients: list[Tensor]) -> list[bool]:
    similar_K = torch.tensor([mean_similarity(reps_ND, GLOBAL) for reps_ND in clients])
    agree_K = agreements(torch.stack([added(reps_ND, GLOBAL) for reps_ND in clients]), ~adding_nothing(similar_K))
    flags: list[bool] = near_copies(similar_K, agree_K, num_samples=SAMPLES, dim=DIM).tolist()
    return flags


@pytest.mark.parametrize(
    "attack", [GLOBAL, GLOBAL.half().float(), mixed(), mixed(0.5)], ids=["copy", "f16", ".9", ".5"]
)
@pytest.mark.parametrize("bad", [1, 3])
def test_copies_plain_or_mixed_are_found_alone_and_as_three_of_ten(attack: Tensor, bad: int) -> None:
    assert found([attack] * bad + [honest(seed) for seed in range(10, 20 - bad)]) == [True] * bad + [False] * (10 - bad)


def test_an_honest_site_is_not_meant_however_unusual() -> None:
    others = [honest(seed) for seed in range(10, 19)]
    far, better, strange = honest(30, near=0.0), honest(31, near=2.0, common=1.0), honest(32, common=0.0)
    noise, flipped = unit(SAMPLES, DIM, seed=33), -GLOBAL
    for unusual in (far, better, strange, noise, flipped):
        assert found([unusual, *others]) == [False] * 10


def test_a_site_of_another_kind_that_is_much_nearer_and_agrees_little_is_not_meant() -> None:
    """A pretrained image classifier among pair clients: mean cosine 0.73 beside 0.57, agreement 0.04 beside 0.15."""
    others = [honest(seed, near=0.8) for seed in range(10, 16)]
    other_kind = honest(30, near=2.2, common=0.15)
    agree_K = agreements(torch.stack([added(reps_ND, GLOBAL) for reps_ND in (other_kind, *others)]))
    assert 0.05 < float(agree_K[0]) < 0.5 * float(agree_K[1:].min())
    assert found([other_kind, *others]) == [False] * 7


def test_copies_do_not_make_an_honest_site_of_another_kind_seem_to_agree_with_nobody() -> None:
    others, other_kind = [honest(seed, near=0.8) for seed in range(10, 14)], honest(30, near=2.2, common=0.08)
    for copies in (1, 2, 3):
        assert found([other_kind, *others, *[GLOBAL] * copies]) == [False] * 5 + [True] * copies


def test_rows_that_do_not_count_change_no_other_clients_agreement() -> None:
    added_KSD = torch.stack([added(honest(seed), GLOBAL) for seed in range(10, 15)])
    with_copies = torch.cat([added_KSD, torch.zeros(3, SAMPLES, DIM)])
    among_K = torch.tensor([True] * 5 + [False] * 3)
    expected = [*agreements(added_KSD).tolist(), 0.0, 0.0, 0.0]
    assert agreements(with_copies, among_K).tolist() == pytest.approx(expected)
    assert agreements(with_copies[5:], among_K[5:]).tolist() == [0.0] * 3


def test_two_of_seven_do_not_hide_by_what_they_add_to_the_spread() -> None:
    others = [honest(seed, near=near) for seed, near in enumerate((0.58, 0.605, 0.63, 0.655, 0.68), start=10)]
    assert found([mixed(), mixed(), *others]) == [True, True] + [False] * 5


def test_where_clients_agree_by_chance_only_being_nearer_has_to_be_plain() -> None:
    weak = [honest(seed, near=0.1, common=0.0) for seed in range(40, 48)]
    for attack in (GLOBAL, mixed()):
        assert found([attack, attack, *weak]) == [True, True] + [False] * 8
    better = honest(30, near=0.5, common=0.0)
    assert 0.4 < mean_similarity(better, GLOBAL) < 0.6
    assert not any(found([better, *weak]))


def as_int8(reps_ND: Tensor) -> Tensor:
    scale = reps_ND.abs().amax() / 127
    return (reps_ND / scale).round() * scale


@pytest.mark.parametrize("sent", [GLOBAL, GLOBAL.half().float(), as_int8(GLOBAL), 10 * GLOBAL])
@pytest.mark.parametrize("others", [1, 3, 7])
def test_what_adds_nothing_is_left_out_however_many_send_it_and_however_much_the_others_differ(
    sent: Tensor, others: int
) -> None:
    # Such different ones that four deviations, twice, are beyond 1.
    differing = [honest(60 + step, near=0.6 * step, common=0.0) for step in range(others)]
    assert found([sent, *differing, sent]) == [True, *[False] * others, True]


def test_the_same_from_all_and_mixed_copies_of_too_few_mean_nobody() -> None:
    assert not any(found([GLOBAL] * 6))
    assert not any(found([GLOBAL]))
    few = [mixed(), *(honest(seed) for seed in range(40, 38 + FEWEST_CLIENTS))]
    assert found(few) == [False] * (FEWEST_CLIENTS - 1)


def test_agreement_is_one_with_oneself_and_about_zero_with_chance() -> None:
    rest_SD = added(honest(10), GLOBAL)
    torch.testing.assert_close(agreements(torch.stack([rest_SD] * 3)), torch.ones(3, dtype=torch.float64))
    chance = agreements(torch.stack([added(unit(SAMPLES, DIM, seed=seed), GLOBAL) for seed in range(4)]))
    assert float(chance.abs().max()) < 4 / (SAMPLES * DIM) ** 0.5
    assert agreements(rest_SD[None]).tolist() == [0.0]


def test_thousands_of_clients_have_an_agreement_each() -> None:
    # 4,100 x 4,099 pairs are more than torch.quantile takes at once.
    added_KSD = unit(4_100, 1, 2, seed=5)
    found_K = agreements(added_KSD)
    assert found_K.shape == (4_100,)
    others = (added_KSD[1:] * added_KSD[0]).sum(dim=(1, 2)).double()
    assert float(found_K[0]) == pytest.approx(float(others.quantile(0.5)), abs=1e-6)


def test_what_is_compared_part_by_part_has_the_medians_of_the_plain_formula() -> None:
    # 20 clients of 8,192 numbers: three and a bit parts of the samples.
    added_KSD = unit(20, 20, 8_192, seed=6)
    cosines_KK = torch.einsum("isd,jsd->ijs", added_KSD.double(), added_KSD.double()).mean(dim=2)
    apart = [added_SD.half() if number % 2 else added_SD for number, added_SD in enumerate(added_KSD)]
    for own, (whole, in_two_dtypes) in enumerate(zip(agreements(added_KSD), agreements(apart), strict=True)):
        others = cosines_KK[own][torch.arange(20) != own].sort().values
        assert float(whole) == pytest.approx(float(others[9]), abs=1e-8)  # of 19
        assert float(in_two_dtypes) == pytest.approx(float(others[9]), abs=5e-6)


def test_nothing_is_added_by_a_copy_and_by_what_is_the_same_in_all_rows() -> None:
    assert not added(GLOBAL, GLOBAL).any()
    one_row = added(GLOBAL[:1], GLOBAL[1:2])
    assert one_row.norm() == pytest.approx(1)
    assert float((added(honest(3), GLOBAL) * GLOBAL).sum(dim=1).mean().abs()) < 0.05
    constant = unit(1, DIM, seed=9).expand(SAMPLES, DIM)
    pair = torch.stack([added(constant, GLOBAL), added(constant, GLOBAL)])
    assert torch.isfinite(pair).all()


def least_agreeing_slowly(added_KND: Tensor, count: int) -> Tensor:
    """The definition, one sample and one pair at a time in float64."""
    clients, samples, _ = added_KND.shape
    rows = added_KND.double()
    meant_KN = torch.zeros(clients, samples, dtype=torch.bool)
    for n in range(samples):
        medians = [
            statistics.median(float(rows[k, n] @ rows[j, n]) for j in range(clients) if j != k) for k in range(clients)
        ]
        for k in sorted(range(clients), key=lambda k: (medians[k], -k))[:count]:
            meant_KN[k, n] = True
    return meant_KN


@settings(max_examples=30, deadline=None)
@given(
    clients=st.integers(2, 9), samples=st.integers(1, 7), dim=st.integers(1, 5), seed=st.integers(0, 99), data=st.data()
)
def test_least_agreeing_is_its_definition(clients: int, samples: int, dim: int, seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, clients - 1))
    # Small integers: every product and sum is exact, so that ties are ties in both.
    rows = torch.randint(-2, 3, (clients, samples, dim), generator=torch.Generator().manual_seed(seed)).float()
    assert least_agreeing(rows, count).equal(least_agreeing_slowly(rows, count))


def test_a_sample_s_rows_are_looked_at_alike_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = unit(7, 50, 16, seed=3)
    whole = least_agreeing(rows, 2)
    monkeypatch.setattr(agreement, "_COSINES_AT_ONCE", 200)
    assert least_agreeing(rows, 2).equal(whole)
    assert whole.sum(dim=0).tolist() == [2] * 50


@pytest.mark.parametrize("bad", [1, 3])
def test_who_plants_rows_on_a_few_samples_agrees_least_there_and_there_alone(bad: int) -> None:
    clients = torch.stack([honest(seed) for seed in range(10)])
    planted = torch.tensor([3, 20, 77])
    clients[:bad, planted] = unit(DIM, seed=99)
    meant_KN = least_agreeing(torch.stack([added(reps_ND, GLOBAL) for reps_ND in clients]), bad)
    assert meant_KN[:bad, planted].all()
    assert float(meant_KN[:bad].float().mean()) < 0.6  # elsewhere they are trimmed as often as anybody


@pytest.mark.parametrize(
    ("share", "clients", "count"), [(0.0, 10, 0), (0.3, 10, 3), (0.3, 11, 3), (0.49, 5, 2), (0.3, 4, 0), (0.1, 9, 0)]
)
def test_a_share_of_the_clients_is_rounded_down(share: float, clients: int, count: int) -> None:
    assert num_trimmed(share, clients) == count


def test_shares_and_counts_that_cannot_be_are_refused() -> None:
    with pytest.raises(InvalidTensorError, match="share"):
        num_trimmed(0.5, 10)
    with pytest.raises(InvalidTensorError, match="count"):
        least_agreeing(torch.zeros(3, 2, 2), 3)
