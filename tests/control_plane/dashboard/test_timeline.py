"""The timeline shows when everybody was at work, on one scale, and who the round waited for longest."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis
import hypothesis.strategies as st

from fedafd.control_plane.dashboard.timeline import seconds_left, time_left, timeline
from fedafd.persistence.models import ClientRow, EventRow, ParticipationRow, RoundRow, StageRow

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def round_row(**changes: Any) -> RoundRow:
    values = {
        "number": 1,
        "state": "completed",
        "started_at": START,
        "finished_at": at(100),
        "state_changed_at": at(20),
    }
    return RoundRow(**(values | changes))


def stage(kind: str, begin: float, end: float | None, **changes: Any) -> StageRow:
    values = {
        "kind": kind, "state": "done" if end else "running", "created_at": at(begin), "progress": 0.5, "failures": 0,
        "finished_at": None if end is None else at(end), "worker": "gpu", "activity": "at it", "reason": None,
    }  # fmt: skip
    return StageRow(**(values | changes))


def part(name: str, state: str, settled: float | None, **changes: Any) -> tuple[ParticipationRow, ClientRow]:
    values = {
        "state": state, "settled_at": None if settled is None else at(settled), "progress": 0.25, "reason": None,
        "activity": "local epoch 1 of 5", "bytes_up": 0, "bytes_down": 0,
    }  # fmt: skip
    return ParticipationRow(**(values | changes)), ClientRow(name=name, kind="image")


CHANGES = [EventRow(at=at(20), kind="round.state_changed", data={"round": 1, "new": "collecting"})]


def test_a_site_is_at_work_from_the_collecting_to_its_delivery_and_the_last_one_is_marked() -> None:
    parts = [
        part("a", "delivered", 40, bytes_up=500, bytes_down=500),
        part("b", "delivered", 70),
        part("c", "dropped", 90, reason="the round's deadline passed"),
    ]
    drawn = timeline(round_row(), CHANGES, [], parts, at(500))
    assert drawn is not None
    a, b, c = drawn.sites
    assert (a.left, a.width, a.seconds, a.phases, a.rate_down) == (20, 20, 20, (), None)
    assert (b.slowest, a.slowest, c.slowest) == (True, False, False)
    assert c.note == "the round's deadline passed"
    assert drawn.seconds == 100


def test_a_sites_bar_has_its_phases_and_rates_are_theirs() -> None:
    parts = [
        part("a", "delivered", 70, trains_since=at(25), sends_since=at(60), bytes_down=500, bytes_up=200),
        part("b", "training", None, trains_since=at(30)),
        part("c", "invited", None, bytes_down=100),
    ]
    drawn = timeline(round_row(state="collecting", finished_at=None), CHANGES, [], parts, at(100))
    assert drawn is not None
    a, b, c = drawn.sites
    assert [(p.name, p.left, p.width, p.seconds) for p in a.phases] == [
        ("download", 20, 5, 5),
        ("training", 25, 35, 35),
        ("upload", 60, 10, 10),
    ]
    assert (a.rate_down, a.rate_up) == (100, 20)
    assert [(p.name, p.seconds) for p in b.phases] == [("download", 10), ("training", 70)]
    assert (b.rate_down, b.rate_up) == (None, None)
    assert (c.phases, c.rate_down) == ((), None)


def test_what_is_not_over_ends_now_and_says_what_it_does() -> None:
    drawn = timeline(
        round_row(state="collecting", finished_at=None),
        CHANGES,
        [stage("prepare", 0, 20), stage("fold", 25, None, failures=2)],
        [part("a", "training", None)],
        at(40),
    )
    assert drawn is not None
    prepare, fold = drawn.server
    assert (prepare.left, prepare.width, prepare.note) == (0, 50, "gpu")
    assert (fold.left, fold.width, fold.state, fold.note) == (62.5, 37.5, "running", "0 of 1 done")
    assert (drawn.sites[0].width, drawn.sites[0].note, drawn.sites[0].slowest) == (50, "local epoch 1 of 5", False)


def test_a_stage_that_failed_before_says_so() -> None:
    drawn = timeline(round_row(), [], [stage("distil", 0, None, failures=2, reason="out of memory")], [], at(9))
    assert drawn is not None
    assert drawn.server[0].note == "failed 2 times before; out of memory; gpu"


def test_a_round_that_never_began_has_no_timeline() -> None:
    assert timeline(round_row(started_at=None), [], [], [], at(9)) is None


def test_the_time_left_is_told_while_sites_are_awaited() -> None:
    assert seconds_left(round_row(state="collecting", deadline_at=at(60)), at(0)) == "60 s"
    assert seconds_left(round_row(state="distilling", deadline_at=at(60)), at(0)) == ""
    assert seconds_left(round_row(state="collecting", deadline_at=None), at(0)) == ""


def test_an_open_round_takes_what_the_last_completed_one_took() -> None:
    row = round_row(number=4, state="collecting", finished_at=None)
    earlier = [round_row(number=3, state="failed"), round_row(number=2), round_row(number=1, finished_at=at(7))]
    assert time_left(row, earlier, at(40)) == "about 60 s (round 2 took 100 s)"
    assert time_left(row, earlier, at(140)) == "longer than usual (round 2 took 100 s)"
    assert time_left(row, earlier[:1], at(40)) == ""
    assert time_left(round_row(number=3), earlier, at(40)) == ""
    assert time_left(round_row(number=3, state="queued", started_at=None, finished_at=None), earlier, at(40)) == ""


moments = st.floats(-50, 500, allow_nan=False)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    st.floats(0, 300), st.lists(st.tuples(moments, st.none() | moments), max_size=5), st.lists(st.none() | moments)
)
def test_every_bar_lies_within_the_scale(
    end: float, stages: list[tuple[float, float | None]], settled: list[float | None]
) -> None:
    """Clocks of machines differ, so any order of moments may come."""
    drawn = timeline(
        round_row(finished_at=at(end)),
        CHANGES,
        [stage("distil", begin, finish) for begin, finish in stages],
        [
            part(
                f"s{number}",
                "delivered",
                moment,
                trains_since=at(20),
                sends_since=None if moment is None else at(100 - moment),
            )
            for number, moment in enumerate(settled)
        ],
        at(1000),
    )
    assert drawn is not None
    for bar in drawn.server + drawn.sites:
        assert 0 <= bar.left <= 100
        assert 0 < bar.width <= 100
        assert bar.seconds >= 0
        assert all(0 <= phase.left <= 100 and 0 < phase.width <= 100 for phase in bar.phases)
