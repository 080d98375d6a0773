"""The time left is right from the second round on, whatever the stages cost beside what was guessed of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.simulation.test_simulate import TINY

from fedafd.cli.simulate_left import TimeLeft
from fedafd.domain.kinds import ClientKind
from fedafd.simulation.effort import TEST, ClientSize, Effort, Stage
from fedafd.simulation.experiment import ExperimentConfig, RunKey
from fedafd.simulation.forecast import Forecast, Kinds
from fedafd.simulation.worker import Now

SIZES = {kind.value: ClientSize(kind, 300, 60) for kind in ClientKind}
STEP_SECONDS = {"prepare": 0.004, "image": 0.012, "text": 0.0005, "pair": 0.009, "distil": 0.03, "evaluate": 0.01}
"""For a unit of work: far from what Effort begins with."""
TEST_SECONDS, PARTS = 4.0, 10


class Simulated:
    """Runs whose stages take what STEP_SECONDS says, on a clock of their own."""

    def __init__(self, *, slower: float = 1.0, strategies: tuple[str, ...] = ("fedafd",), rounds: int = 5) -> None:
        self.now, self.slower = 0.0, slower
        self.experiment = ExperimentConfig.model_validate(TINY | {"strategies": list(strategies), "rounds": rounds})
        self.forecast = Forecast(self.experiment, clock=lambda: self.now)
        self.kinds: list[Kinds] = []

    def run(self, strategy: str, *, there: tuple[str, ...] = ()) -> Iterator[tuple[int, str, float]]:
        """A run's moments; stages `there` of the first round need not be done."""
        effort = self.forecast.begin(RunKey(scenario="iid", strategy=strategy, seed=0), 200, SIZES)
        for number in range(1, effort.num_rounds + 1):
            for stage in self._stages(effort, number):
                skipped = number == 1 and stage.name in there
                for part in range(1 if skipped else PARTS):
                    self.forecast.at(number, stage.name, part / PARTS if stage.kind != "evaluate" else 0.0)
                    yield number, stage.name, part / PARTS
                    self.now += 0.0 if skipped else self._seconds(stage, number) / PARTS
            self.forecast.ended()
            self.kinds.append(self.forecast.measured())
        self.forecast.testing()
        yield effort.num_rounds, TEST, 0.0
        self.now += TEST_SECONDS
        self.forecast.ended()

    def _stages(self, effort: Effort, number: int) -> list[Stage]:
        prepare, *after = effort.server(number)
        return [prepare, *effort.clients, *after]

    def _seconds(self, stage: Stage, number: int) -> float:
        return stage.work * STEP_SECONDS[stage.kind] * (self.slower if number > 1 else 1.0)


def told_and_truth(simulated: Simulated, strategy: str) -> list[tuple[int, float | None, float]]:
    """Of each moment: the round, what is told to be left, and when it was."""
    moments = [(n, simulated.forecast.seconds_left(), simulated.now) for n, _, _ in simulated.run(strategy)]
    return [(number, left, simulated.now - at) for number, left, at in moments]


@pytest.mark.parametrize("slower", [1.0, 1.5])
def test_from_the_second_round_on_the_time_left_is_right(slower: float) -> None:
    """Also where the machine got slower after the first round, once that was seen in a few stages."""
    told = told_and_truth(Simulated(slower=slower), "fedafd")
    later = [(left, truth) for number, left, truth in told if number >= (2 if slower == 1 else 4) and truth > 10]
    assert len(later) > 50
    for left, truth in later:
        assert left == pytest.approx(truth, rel=0.2)


def test_in_the_first_round_it_is_told_as_soon_as_a_stage_says_anything() -> None:
    told = told_and_truth(Simulated(), "fedafd")
    assert told[0][1] is None
    assert all(left is not None for _, left, _ in told[PARTS:])


def test_a_second_run_is_forecast_from_its_beginning() -> None:
    simulated = Simulated(strategies=("fedafd", "local"))
    for _ in simulated.run("fedafd"):
        pass
    whole = simulated.forecast.whole_runs()["local"]
    began = simulated.now
    left = [simulated.forecast.seconds_left() for _ in simulated.run("local", there=("prepare",))]
    took = simulated.now - began
    assert left[0] == pytest.approx(took, rel=0.2)
    assert whole.after_others == pytest.approx(took, rel=0.2)
    assert whole.alone > whole.after_others


def test_an_interrupted_run_goes_on_with_what_it_had_measured() -> None:
    first = Simulated()
    for _ in first.run("fedafd"):
        pass
    second = Simulated()
    moments = second.run("fedafd")
    next(moments)
    assert second.forecast.seconds_left() is None
    second.forecast.learn(first.kinds[0])
    assert second.forecast.seconds_left() is not None


def test_what_went_on_from_an_earlier_command_is_no_measure() -> None:
    simulated = Simulated()
    simulated.forecast.begin(RunKey(scenario="iid", strategy="fedafd", seed=0), 200, SIZES)
    simulated.forecast.at(1, "prepare", 0.9, kept=True)
    simulated.now = 60.0
    simulated.forecast.at(1, "image", 0.0)
    assert simulated.forecast.measured() == {}
    assert simulated.forecast.seconds_left() is None


def test_runs_that_wait_take_what_those_of_their_strategy_take() -> None:
    """One worker: the run at work says 30 s, and that `local` takes 100 s, or 80 s after others of its seed."""
    runs = [RunKey(scenario="iid", strategy=name, seed=seed) for seed in (0, 1) for name in ("fedafd", "local")]
    whole = {"fedafd": (400.0, 300.0), "local": (100.0, 80.0)}
    told = Now.from_json(Now(2, 0.5, "a", 30.0, whole).to_json())  # type: ignore[arg-type]
    assert TimeLeft(runs, []).seconds(0.0, [], {runs[0]: told}) == 30 + 80 + 400 + 80
    # Who cannot say yet what is left of it takes what its strategy takes.
    second = Now(1, 0.25, "a")
    assert TimeLeft(runs[:2], []).seconds(0.0, [], {runs[0]: told, runs[1]: second}) == 0.75 * 80
