"""What a simulation shows at work: lines without a terminal, bars on one, and the time left from measured speed."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from tests.simulation.test_simulate import TINY
from tests.simulation.test_summary import result

from fedafd.cli.simulate_view import SimulationView
from fedafd.simulation.experiment import ExperimentConfig, RunKey
from fedafd.simulation.worker import Now

FIRST, SECOND = (RunKey(scenario="iid", strategy=name, seed=0) for name in ("fedafd", "local"))


class Shown:
    """A view of two runs whose clock stands where it is put."""

    def __init__(self, output: Path, *, terminal: bool = False) -> None:
        self.now, self.output = 0.0, output
        self.out, self.lines = io.StringIO(), io.StringIO()
        experiment = ExperimentConfig.model_validate(TINY | {"strategies": ["fedafd", "local"], "rounds": 4})
        console = Console(file=self.out, force_terminal=terminal, width=120)
        self.view = SimulationView(experiment, output, console, Console(file=self.lines), clock=lambda: self.now)

    def at(self, seconds: float) -> Shown:
        self.now = seconds
        return self

    def finish(self, key: RunKey, content: str = "{}") -> None:
        place = self.output / key.folder / "result.json"
        place.parent.mkdir(parents=True)
        place.write_text(content)


def test_lines_come_within_the_first_minute_and_say_the_time_left(tmp_path: Path) -> None:
    shown = Shown(tmp_path)
    shown.at(1).view.update({FIRST: Now(1, 0.0, "server: public pass 1 of 39")})
    assert shown.lines.getvalue() == ""
    shown.at(20).view.update({FIRST: Now(1, 0.1, "server: public pass 9 of 39")})
    assert shown.lines.getvalue() == (
        "0 of 2 runs done, about 6 min left (5%)\n"
        "  iid / fedafd / seed 0: round 1 of 4, server: public pass 9 of 39 (10%)\n"
    )
    shown.at(21).view.update({FIRST: Now(1, 0.1, "the same")})
    assert "the same" not in shown.lines.getvalue()
    assert shown.out.getvalue() == ""


def test_what_an_earlier_command_did_is_no_speed(tmp_path: Path) -> None:
    shown = Shown(tmp_path)
    shown.finish(SECOND)
    shown = Shown(tmp_path)
    shown.at(1).view.update({FIRST: Now(3, 0.5, "a")})
    shown.at(101).view.update({FIRST: Now(3, 0.6, "a")})
    # A tenth of a run in 101 s: four tenths are left.
    assert "1 of 2 runs done, about 7 min left" in shown.lines.getvalue()


def test_the_end_of_a_run_is_told_and_counts_once(tmp_path: Path) -> None:
    shown = Shown(tmp_path)
    shown.view.update({FIRST: Now(1, 0.0, "a")})
    shown.finish(FIRST)
    shown.at(100).view.update({FIRST: Now(4, 1.0, "test"), SECOND: Now(1, 0.0, "b")})
    assert shown.lines.getvalue().startswith("iid / fedafd / seed 0: done\n1 of 2 runs done, about 100 s left (50%)\n")


@pytest.mark.parametrize("text", ["note: [brackets] stay", "plain"])
def test_a_terminal_has_bars(tmp_path: Path, text: str) -> None:
    shown = Shown(tmp_path, terminal=True)
    with shown.view.shown() as view:
        shown.at(50).view.update({FIRST: Now(2, 0.25, "client image-0-000: local epoch 1 of 5")})
        view.say(text)
    drawn = shown.out.getvalue()
    assert text in drawn
    assert "iid / fedafd / seed 0" in drawn
    assert "25%" in drawn
    assert "round 2 of 4, client image-0-000: local epoch 1 of 5" in drawn
    assert shown.lines.getvalue() == ""


def test_what_is_done_is_told_with_its_figures_and_stands_in_a_table(tmp_path: Path) -> None:
    content = json.dumps(result("fedafd", 0, image=21.5, pairs=60.0))
    shown = Shown(tmp_path, terminal=True)
    with shown.view.shown() as view:
        view.update({FIRST: Now(1, 0.5, "a")})
        assert "done so far" not in shown.out.getvalue()
        shown.finish(FIRST, content)
        shown.at(50).view.update({SECOND: Now(1, 0.25, "b")})
        view.refresh()
    drawn = shown.out.getvalue()
    assert "iid / fedafd / seed 0: done, mean 15.8, server rsum 60.0, image acc1 21.5" in drawn
    table = drawn[drawn.rindex("done so far, test figures") :]
    assert "1 of 1" in table
    assert "21.5" in table


def test_a_result_that_cannot_be_read_does_not_end_the_view(tmp_path: Path) -> None:
    shown = Shown(tmp_path)
    shown.view.update({FIRST: Now(1, 0.5, "a")})
    shown.finish(FIRST, "no JSON")
    shown.view.update({})
    assert shown.lines.getvalue() == "iid / fedafd / seed 0: done\n"
