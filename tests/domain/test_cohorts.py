"""A cohort has the configured size, is fair over rounds, the same whoever draws it, and can reach its quorum."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedafd.domain.cohorts import Candidate, draw_cohort, short_of_quorum
from fedafd.domain.config import CohortConfig, QuorumConfig, parse_federation_config
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import ParticipantKind

NO_QUORUM = QuorumConfig()
KINDS = st.lists(
    st.sampled_from([kind for kind in ParticipantKind if kind is not ParticipantKind.REGION]), min_size=1, max_size=12
)


def sites(kinds: list[ParticipantKind], invited: dict[str, int] | None = None) -> list[Candidate]:
    names = [f"site-{place:02d}" for place in range(len(kinds))]
    return [Candidate(name, kind, (invited or {}).get(name, 0)) for name, kind in zip(names, kinds, strict=True)]


@settings(max_examples=60)
@given(KINDS, st.integers(1, 12), st.integers(0, 2**62), st.integers(1, 20))
def test_every_site_is_invited_as_often_as_any_other_give_or_take_one(
    kinds: list[ParticipantKind], size: int, seed: int, rounds: int
) -> None:
    counts: Counter[str] = Counter()
    for number in range(1, rounds + 1):
        drawn = draw_cohort(CohortConfig(size=size), NO_QUORUM, seed, number, sites(kinds, counts))
        assert len(drawn) == min(size, len(kinds))
        assert [each.name for each in drawn] == sorted({each.name for each in drawn})
        counts.update(each.name for each in drawn)
    often = [counts[each.name] for each in sites(kinds)]
    assert max(often) - min(often) <= 1


@settings(max_examples=60)
@given(KINDS, st.integers(1, 12), st.integers(1, 4), st.integers(0, 4), st.integers(0, 4), st.booleans(), st.randoms())
def test_a_cohort_reaches_the_quorum_wherever_those_online_can(
    kinds: list[ParticipantKind], size: int, least: int, images: int, texts: int, per_kind: bool, order: Any
) -> None:
    quorum = QuorumConfig(min_clients=least, min_image_clients=images, min_text_clients=texts)
    cohort, online = CohortConfig(size=size, per_kind=per_kind), sites(kinds)
    drawn = draw_cohort(cohort, quorum, 7, 3, online)
    if not short_of_quorum(quorum, sites(kinds)):
        assert not short_of_quorum(quorum, drawn)
    order.shuffle(online)
    assert draw_cohort(cohort, quorum, 7, 3, online) == drawn


@pytest.mark.parametrize(("fraction", "count", "expected"), [(0.7, 10, 7), (0.3, 10, 3), (0.01, 10, 1), (1.0, 3, 3)])
def test_a_fraction_is_rounded_up_and_no_further(fraction: float, count: int, expected: int) -> None:
    drawn = draw_cohort(CohortConfig(fraction=fraction), NO_QUORUM, 0, 1, sites([ParticipantKind.IMAGE] * count))
    assert len(drawn) == expected


def test_per_kind_takes_so_many_of_each() -> None:
    online = sites([ParticipantKind.IMAGE] * 5 + [ParticipantKind.TEXT] * 2 + [ParticipantKind.PAIR])
    drawn = draw_cohort(CohortConfig(size=2, per_kind=True), NO_QUORUM, 0, 1, online)
    assert Counter(each.kind for each in drawn) == {
        ParticipantKind.IMAGE: 2,
        ParticipantKind.TEXT: 2,
        ParticipantKind.PAIR: 1,
    }


def test_the_seed_decides_between_equals_and_another_round_draws_others() -> None:
    online = sites([ParticipantKind.IMAGE] * 12)

    def names(seed: int, number: int, own: int | None = None) -> tuple[str, ...]:
        return tuple(e.name for e in draw_cohort(CohortConfig(size=4, seed=own), NO_QUORUM, seed, number, online))

    assert names(1, 1) == names(1, 1) == names(9, 1, own=1)
    assert len({names(seed, 1) for seed in range(10)}) > 5
    assert len({names(1, number) for number in range(1, 11)}) > 5


def test_what_the_quorum_lacks_is_told() -> None:
    quorum = QuorumConfig(min_clients=2, min_text_clients=1)
    told = short_of_quorum(quorum, sites([ParticipantKind.IMAGE]))
    assert told == "1 of 2 sites, 0 of 1 sites with text representations"
    assert short_of_quorum(quorum, sites([ParticipantKind.IMAGE, ParticipantKind.PAIR])) == ""
    region = Candidate("north", ParticipantKind.REGION, 0, clients=20)
    assert short_of_quorum(quorum, [region]) == ""


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"cohort": {"size": 2, "fraction": 0.5}}, "size or fraction, not both"),
        ({"cohort": {"fraction": 0}}, "cohort.fraction"),
    ],
)
def test_what_contradicts_itself_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        parse_federation_config({"name": "trial"} | values)
