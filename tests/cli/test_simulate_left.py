"""The time left is right from the first minute: a start, and stages that runs have in common, are no speed."""

from __future__ import annotations

import pytest

from fedafd.cli.simulate_left import TimeLeft
from fedafd.simulation.experiment import RunKey
from fedafd.simulation.worker import Now

RUNS = [RunKey(scenario="iid", strategy=name, seed=0) for name in ("local", "fedafd", "creamfl", "fedmd")]
START, RUN = 45.0, 400.0
"""Seconds until the first run makes its first step, and seconds of a run."""


def told_at(seconds: float, *, server_share: float = 0.0) -> tuple[float | None, float]:
    """What is told after so many seconds of runs one after the other, looked at twice a second, and the truth.

    All but the first come to `server_share` at once.
    """
    left, done, told = TimeLeft(RUNS, []), [], None
    begins = [START + n * RUN - max(n - 1, 0) * server_share * RUN for n in range(len(RUNS))]
    for tick in range(int(2 * seconds) + 1):
        now, at_work = tick / 2, {RUNS[0]: Now(1, 0.0, "")} if tick > 10 else {}
        for n, (key, begin) in enumerate(zip(RUNS, begins, strict=True)):
            share = (now - begin) / RUN + (server_share if n and now > begin + 1 else 0.0)
            if share >= 1 and key not in done:
                done.append(key)
            elif begin <= now and key not in done:
                at_work[key] = Now(1, share, "")
        told = left.seconds(now, done, {key: at for key, at in at_work.items() if key not in done})
    end = begins[-1] + (1 - server_share) * RUN
    return told, end - seconds


@pytest.mark.parametrize("seconds", [60.0, 90.0, 300.0, 900.0, 1500.0])
def test_a_slow_start_is_no_speed(seconds: float) -> None:
    told, truth = told_at(seconds)
    assert told == pytest.approx(truth, rel=0.05)


@pytest.mark.parametrize("seconds", [30.0, 50.0])
def test_nothing_is_told_of_what_nobody_can_know(seconds: float) -> None:
    assert told_at(seconds)[0] is None


@pytest.mark.parametrize("seconds", [460.0, 600.0, 900.0])
def test_stages_that_runs_have_in_common_are_no_speed(seconds: float) -> None:
    told, truth = told_at(seconds, server_share=0.6)
    assert told == pytest.approx(truth, rel=0.1)


@pytest.mark.parametrize("seconds", [50.0, 150.0, 250.0])
def test_a_run_that_is_left_over_has_a_worker_to_itself(seconds: float) -> None:
    """Five runs of 100 s by two workers take 300 s, although half of the last 100 s' power lies idle."""
    runs = [RunKey(scenario="iid", strategy="local", seed=seed) for seed in range(5)]
    left, told = TimeLeft(runs, []), None
    for tick in range(int(2 * seconds) + 1):
        shares = {key: (tick / 2 - number // 2 * 100) / 100 for number, key in enumerate(runs)}
        done = [key for key, share in shares.items() if share >= 1]
        told = left.seconds(tick / 2, done, {key: Now(1, share, "") for key, share in shares.items() if 0 <= share < 1})
    assert told == pytest.approx(300 - seconds, rel=0.05)
