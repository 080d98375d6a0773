"""The watch says why nothing goes on, and its clock ticks while nothing comes."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from rich.console import Console

from fedafd.cli.remote.rounds import _counts
from fedafd.cli.round_view import RoundView
from fedafd.client.answers import Finding, RoundDetails

WAITS: Finding = {
    "level": "trouble", "cause": "no-distiller", "federation": "north", "round": 1, "since": None,
    "words": "north: round 1 waits for a distiller", "remedy": "start one",
}  # fmt: skip


def answer(seconds: float, number: int = 1) -> RoundDetails:
    started = (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()
    answer: Any = {
        "number": number, "state": "preparing", "started_at": started, "finished_at": None, "stages": [],
        "participations": [],
    }  # fmt: skip
    return cast("RoundDetails", answer)


def drawn(view: RoundView) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(view._current())
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_what_a_round_waits_for_is_printed_where_there_is_no_terminal() -> None:
    console = Console(file=io.StringIO(), width=120)
    view = RoundView(console, [1])
    view.waits({**WAITS, "words": "north: \x1b[2Jround 1 waits"})
    view.waits({**WAITS, "level": "fine", "remedy": ""})
    assert console.file.getvalue() == "north:  [2Jround 1 waits; start one\n"  # type: ignore[attr-defined]


def test_what_a_round_waits_for_is_drawn_with_it_until_it_goes_on() -> None:
    view = RoundView(Console(file=io.StringIO()), [1, 2])
    assert drawn(view).strip() == ""
    view.update(answer(30))
    assert "30 s" in drawn(view)
    view.waits(WAITS)
    assert "waits for a distiller; start one" in drawn(view)
    view.update(answer(0, number=2))
    assert "waits for" not in drawn(view)
    view.update(answer(30))
    view.waits({**WAITS, "level": "fine"})
    assert "waits for" not in drawn(view)


def test_without_a_terminal_a_long_state_tells_once_a_minute_who_works_on_what() -> None:
    console, times = Console(file=io.StringIO(), width=60), iter([0.0, 59.0, 60.0, 100.0, 120.0, 200.0, 210.0])
    view = RoundView(console, [1, 2], clock=times.__next__)
    now: Any = answer(0)
    sites = [
        {"client": f"site-{n}", "state": "training", "progress": 0.1, "activity": f"epoch {n} of 9"} for n in range(9)
    ]
    now["stages"] = [
        {"kind": "prepare", "state": "running", "progress": 0.178, "activity": "public pass 2 of 8"},
        {"kind": "fold", "state": "done", "progress": 1.0, "activity": None},
    ]
    now["participations"] = [{"client": "a", "state": "delivered", "progress": 1.0, "activity": None}]
    for _ in range(5):
        view.update(now)
    now["stages"], now["participations"] = [], []
    view.update(now)
    now["participations"] = sites
    view.update(now)
    working = "round 1 of 2: preparing: server public pass 2 of 8, 18 %"
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "round 1 of 2: preparing",
        working,
        working,
        "round 1 of 2: preparing: " + "; ".join(f"site-{n} epoch {n} of 9, 10 %" for n in range(6)) + "; and 3 more",
    ]


def test_a_sites_weight_is_told_with_its_agreement_where_there_is_one() -> None:
    contributions: Any = {
        "image": {"weight": 0.124, "similarity": 0.2, "agreement": -0.031, "left_out": False},
        "text": {"weight": 0.0, "similarity": 1.0, "agreement": 0.0, "left_out": True},
    }
    part: Any = {"contributions": contributions}
    assert _counts(part) == "image 12% agreeing -0.03, text left out agreeing 0.00"
    contributions["image"]["agreement"] = contributions["text"]["agreement"] = None
    assert _counts(part) == "image 12%, text left out"
    assert _counts({"contributions": None}) is None  # type: ignore[typeddict-item]
