"""Figures from runs: means over kinds, paired intervals, and what is said of single clients."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any

import pytest
from benchmarks.measure import interval_95
from tests.simulation.test_simulate import TINY

from fedafd.simulation.experiment import ExperimentConfig
from fedafd.simulation.report import markdown
from fedafd.simulation.summary import client_differences, differences, global_differences, half_width, rows_of

WIDE = {"embedding_dim": 512}
RECALLS = dict.fromkeys(("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10"), 10.0)


def result(strategy: str, seed: int, *, image: float, pairs: float, server: float = 60.0) -> dict[str, Any]:
    acc = {"federated/acc1": image, "federated/acc5": 50.0, "federated/own_acc1": image + 1}
    return {
        "scenario": "iid",
        "strategy": strategy,
        "seed": seed,
        "server": {"metrics": RECALLS | {"rsum": server}},
        "clients": {
            "image-0": {"kind": "image", "metrics": acc},
            "pair-0": {"kind": "pair", "metrics": {"federated/rsum": pairs, "global/rsum": 55.0}},
        },
        "seconds": 1.0,
    }


def results() -> list[dict[str, Any]]:
    """Paired differences of the image clients: 1, 3, 4; of the pair clients: 30, 30, 24."""
    return [
        *(result("fedafd", seed, image=20.0 + seed, pairs=60.0 - 6 * (seed == 2)) for seed in range(3)),
        *(result("local", seed, image=19.0 - (seed > 0), pairs=30.0) for seed in range(3)),
    ]


def test_the_mean_is_over_kinds_and_counts_mean_recall_for_pairs() -> None:
    first = rows_of(results())[0]
    assert first.values["mean"] == pytest.approx((20.0 + 60.0 / 6) / 2)
    assert first.values["image own acc1"] == 21.0
    assert first.clients == {"image-0": 20.0, "pair-0": 60.0}
    assert first.over_global == {"pair-0": 5.0}


def test_the_benchmarks_tell_the_same_intervals_however_many_seeds_there_are() -> None:
    values = [float(number) for number in range(11)]  # their deviation is the root of 11
    half = 2.22814
    assert half_width(values) == pytest.approx(half, abs=1e-4)
    assert interval_95(values) == f"{5 - half:.3g} to {5 + half:.3g}"
    assert interval_95(values[:1]) == "one seed"


def test_intervals_are_students_over_the_seeds() -> None:
    held = {d.measure: d for d in differences(rows_of(results()), "fedafd")}
    image = held["image acc1"]
    pairs = [1.0, 3.0, 4.0]
    mean = sum(pairs) / 3
    deviation = math.sqrt(sum((value - mean) ** 2 for value in pairs) / 2)
    # The 97.5 % quantile of Student's t with two degrees of freedom: tables.
    half = 4.30265 * deviation / math.sqrt(3)
    assert (image.mean, image.low, image.high) == pytest.approx((mean, mean - half, mean + half), abs=1e-4)
    assert image.shown == "not shown"
    assert held["pair rsum"].shown == "better"
    assert held["server rsum"].mean == 0


def test_over_scenarios_a_seed_counts_once_and_only_where_it_was_run_in_all() -> None:
    other = [each | {"scenario": "dirichlet"} for each in results() if each["seed"] < 2]
    other[1]["clients"]["image-0"]["metrics"]["federated/acc1"] += 4.0  # fedafd, seed 1
    found = {(d.scenario, d.measure): d for d in differences(rows_of(results() + other), "fedafd")}
    assert (found["iid", "image acc1"].seeds, found["dirichlet", "image acc1"].seeds) == (3, 2)
    over_all = found["all", "image acc1"]
    assert over_all.mean == pytest.approx((1.0 + (3.0 + 7.0) / 2) / 2)
    assert over_all.seeds == 2


def test_single_clients_are_compared_with_themselves() -> None:
    found = client_differences(rows_of(results()), "fedafd", "local")
    assert found["iid, seed 2, image-0"] == (4.0, None)
    assert found["iid, seed 2, pair-0"] == (24.0, None)
    assert len(found) == 6


@pytest.mark.parametrize(
    ("strategies", "baseline", "alone"),
    [
        ({"fedafd": {}, "local": {}}, "fedafd", "local"),
        ({"fedafd": {}, "creamfl": {}}, "fedafd", None),
        ({"local": {}, "fedafd": {}}, "local", None),
        (
            {"wide": {"strategy": "fedafd", **WIDE}, "alone": {"strategy": "local", **WIDE}, "local": {}},
            "wide",
            "alone",
        ),
        ({"wide": {"strategy": "fedafd", **WIDE}, "fedafd": {}, "local": {}}, "wide", "local"),
        ({"fedafd": {}, "alone": {"strategy": "local"}}, "fedafd", "alone"),
    ],
)
def test_the_strategy_that_trains_alone_is_the_one_with_the_baselines_settings(
    strategies: dict[str, Any], baseline: str, alone: str | None
) -> None:
    values = TINY | {"strategies": strategies, "baseline": baseline}
    assert ExperimentConfig.model_validate(values).alone() == alone


RIGHT = [100.0] * 15 + [0.0] * 5
"""Of 20 test samples."""
DROPPED = [0.0] * 4 + RIGHT[4:]
"""4 of those that were right are wrong: 20 points less, with a standard error of 100 * sqrt(0.2 * 0.8 / 19)."""
SWAPPED = [0.0, 0.0, 0.0, *RIGHT[3:18], 100.0, 100.0]
"""3 are wrong that were right, 2 the other way round: 5 points less, by 11 of standard error."""


def scored(strategy: str, seed: int, image: list[float], pairs: list[float]) -> dict[str, Any]:
    made = result(strategy, seed, image=fmean(image), pairs=fmean(pairs))
    made["clients"]["image-0"]["scores"] = {"federated": image}
    made["clients"]["pair-0"]["scores"] = {"federated": pairs, "global": [55.0, 55.0]}
    return made


def test_a_client_that_is_below_is_told_with_its_standard_error() -> None:
    """What cannot be told from noise is said: of those that lose by more than an error, and of those that do not."""
    made = [
        scored("fedafd", 0, DROPPED, [50.0, 58.0]),
        scored("fedafd", 1, SWAPPED, [54.0, 54.2]),
        scored("local", 0, RIGHT, [40.0, 40.0]),
        scored("local", 1, RIGHT, [40.0, 40.0]),
    ]
    rows = rows_of(made)
    dropped = client_differences(rows, "fedafd", "local")["iid, seed 0, image-0"]
    assert dropped.mean == -20.0
    assert dropped.standard_error == pytest.approx(100 * math.sqrt(0.2 * 0.8 / 19))
    assert dropped.beyond_noise is True
    swapped = client_differences(rows, "fedafd", "local")["iid, seed 1, image-0"]
    assert swapped.mean == -5.0
    assert swapped.standard_error == pytest.approx(100 * math.sqrt((0.25 - 0.05**2) / 19))
    assert swapped.beyond_noise is False
    over = global_differences(rows, "fedafd")
    assert over["iid, seed 0, pair-0"].standard_error == pytest.approx(4.0)
    text = report(made, seeds=[0, 1])
    assert (
        "under local on the test split: 2 of 4 below. By more than one standard error of the paired difference over"
        " test samples: iid, seed 0, image-0 by 20.0 ± 9.2. By less than one, which cannot be told from noise:"
        " iid, seed 1, image-0 by 5.0 ± 11.4. By chance alone 1 in 6 clients would be below by so much."
    ) in text
    assert (
        "2 cases in 2 runs: below in 2 cases. By more than one standard error of the paired difference over test"
        " samples: iid, seed 1, pair-0 by 0.9 ± 0.1. By less than one, which cannot be told from noise:"
        " iid, seed 0, pair-0 by 1.0 ± 4.0."
    ) in text


def test_of_runs_that_kept_no_scores_the_report_says_that_noise_is_not_known() -> None:
    made = results()
    made[0]["clients"]["image-0"]["metrics"]["federated/acc1"] = 15.0
    made[0]["clients"]["image-0"]["scores"] = {"federated": RIGHT}  # of one of the two runs alone
    (below,) = [d for d in client_differences(rows_of(made), "fedafd", "local").values() if d.mean < 0]
    assert (below.standard_error, below.beyond_noise) == (None, None)
    assert "1 of 6 below. Not known whether that is noise, since these runs kept no scores: iid, seed 0" in report(made)


def test_the_report_says_which_clients_fall_below() -> None:
    made = results()
    made[1]["clients"]["image-0"]["metrics"]["federated/acc1"] = 15.0
    experiment = ExperimentConfig.model_validate(TINY | {"strategies": ["fedafd", "local"], "seeds": [0, 1, 2]})
    rows = rows_of(made)
    text = markdown(experiment, rows, differences(rows, "fedafd"))
    unknown = "Not known whether that is noise, since these runs kept no scores"
    assert f"3 cases in 3 runs: below in 1 case. {unknown}: iid, seed 2, pair-0 by 1.0." in text
    assert f"1 of 6 below. {unknown}: iid, seed 1, image-0 by 3.0." in text


def report(made: list[dict[str, Any]], **changes: Any) -> str:
    values = TINY | {"strategies": ["fedafd", "local"], "seeds": [0, 1, 2]} | changes
    experiment, rows = ExperimentConfig.model_validate(values), rows_of(made)
    return markdown(experiment, rows, differences(rows, experiment.baseline))


def test_nothing_is_said_of_runs_or_clients_that_are_not_there() -> None:
    others = [each for each in results() if each["strategy"] == "local"]
    text = report(others)
    assert "No run of fedafd is done: nothing is said of its clients." in text
    assert "never below" not in text
    assert "3 of 6 runs are not done" in text

    alone = [each for each in results() if each["strategy"] == "fedafd"]
    assert "No run of local is done for the same scenario and seed" in report(alone)

    no_pairs = results()
    for each in no_pairs:
        del each["clients"]["pair-0"]
    text = report(no_pairs)
    assert "global model" not in text
    assert "never below" not in text


def test_pairs_that_are_the_global_model_itself_are_not_praised() -> None:
    same = [result("fedafd", seed, image=20.0, pairs=55.0) for seed in range(3)]
    assert "equal in each" in report(same)


def test_the_report_tells_settings_without_effect() -> None:
    federation = TINY["federation"] | {"distillation": {"start_round": 3}}
    text = report(results(), federation=federation, rounds=2)
    assert "Settings without effect:" in text
    assert "- fedafd: distillation.start_round is 3, but there are 2 rounds: nothing is distilled" in text
    assert "without effect" not in report(results())
