"""How rounds are named and what is said at their end: places, durations, and who is missing."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from rich.console import Console

from fedafd.cli.remote.outcome import duration_words, missing_words, phase_words, round_seconds, took_words
from fedafd.cli.round_view import RoundView
from fedafd.client.answers import RoundDetails
from fedafd.domain.headline import gain_words, main_figure

STARTED = datetime(2026, 11, 1, 12, tzinfo=UTC)


def part(client: str, state: str, reason: str | None = None) -> dict[str, Any]:
    return {"client": client, "state": state, "reason": reason}


def answer(number: int, *parts: dict[str, Any], seconds: float = 72, **otherwise: Any) -> RoundDetails:
    answer = {
        "number": number,
        "state": "completed",
        "metrics": {"rsum": 120.0, "i2t_r1": 10.0, "t2i_r1": 11.0},
        "started_at": STARTED.isoformat(),
        "finished_at": (STARTED + timedelta(seconds=seconds)).isoformat(),
        "participations": list(parts),
    }
    return cast("RoundDetails", answer | otherwise)


@pytest.mark.parametrize(
    ("numbers", "number", "name"),
    [
        ([1, 2, 3], 2, "round 2 of 3 in"),
        ([4, 5, 6], 4, "round 4 (1 of 3) in"),
        ([4, 6, 9], 9, "round 9 (3 of 3) in"),
        ([17], 17, "round 17 in"),
        ([1], 1, "round 1 of 1 in"),
    ],
)
def test_a_round_is_named_with_its_place_among_those_watched(numbers: list[int], number: int, name: str) -> None:
    out = io.StringIO()
    RoundView(Console(file=out, width=400), numbers).finished(answer(number))
    assert out.getvalue().startswith(f"{name} 72 s: server rsum 120.0")


def test_the_end_of_a_round_names_who_is_missing_and_why() -> None:
    out = io.StringIO()
    parts = [part("a", "delivered"), part("b", "dropped", "deadline [late]"), part("c", "rejected", "not finite")]
    RoundView(Console(file=out, width=400), [1]).finished(answer(1, *parts))
    assert out.getvalue().endswith("delivered: a; dropped: b (deadline [late]); rejected: c (not finite)\n")


@pytest.mark.parametrize(
    ("trains", "sends", "settled", "words"),
    [
        (4, 40, 42, "4 s, 36 s, 2 s"),
        (4, None, 30, "4 s, 26 s, -"),
        (4, None, None, "4 s, 68 s, -"),
        (None, None, 30, "-"),
    ],
)
def test_a_part_says_how_long_each_phase_took(
    trains: float | None, sends: float | None, settled: float | None, words: str
) -> None:
    """What was not settled ends with the round."""

    def moment(seconds: float | None) -> str | None:
        return None if seconds is None else (STARTED + timedelta(seconds=seconds)).isoformat()

    given: Any = {"trains_since": moment(trains), "sends_since": moment(sends), "settled_at": moment(settled)}
    assert phase_words(given, moment(0), moment(72)) == words


def test_a_part_that_an_older_server_tells_of_has_no_phases() -> None:
    assert phase_words(cast("Any", {"settled_at": None}), STARTED.isoformat(), None) == "-"


def test_a_round_in_which_all_delivered_names_nobody_missing() -> None:
    assert missing_words(answer(1, part("a", "delivered"))) == ""


def test_many_that_are_missing_are_counted() -> None:
    words = missing_words(answer(1, *(part(f"c{n}", "dropped", "late") for n in range(100))))
    assert words.endswith("c19 (late) and 80 more")


def test_a_duration_is_the_rounds_own() -> None:
    assert round_seconds(answer(1, seconds=72)) == 72
    assert round_seconds(answer(1, started_at=None, finished_at=None)) is None
    assert (round_seconds(answer(1, finished_at=None)) or 0) > 72
    assert [duration_words(s) for s in (0.4, 119, 121, 7199, 9000)] == ["0 s", "119 s", "2 min", "120 min", "2.5 h"]


def test_the_figure_that_matters_comes_first_and_a_gain_with_its_error() -> None:
    told = {"federated/acc1": 71.94, "federated/acc5": 90.0, "alone/acc1": 60.0, "over_alone/difference": 1.26}
    assert main_figure(told) == "acc1 71.9"
    assert gain_words(told) == "alone +1.3"
    assert gain_words(told | {"over_alone/standard_error": 0.5}) == "alone +1.3 ± 0.5"
    assert main_figure({"rsum": 157.84, "i2t_r1": 9.0}) == "rsum 157.8"
    assert (main_figure({}), gain_words({})) == (None, None)


def test_what_is_not_over_took_until_now_or_until_its_round_was_over() -> None:
    assert took_words(None, None, None) == "-"
    assert took_words("2026-01-01T00:00:00+00:00", "2026-01-01T00:00:40+00:00", None) == "40 s"
    assert took_words("2026-01-01T00:00:00+00:00", None, "2026-01-01T00:00:50+00:00") == "50 s"
