"""From runs to figures: one row per run, means per strategy, and paired differences with confidence intervals.

Differences are paired by scenario and seed: the same data, partition and initial weights. The interval is Student's t
over the seeds; with three it is wide, and says so. Over several scenarios a seed counts once, with their mean: its runs
share initial weights and more, so that they are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from fedafd.learning.comparison import paired_difference
from fedafd.simulation.experiment import ExperimentConfig, RunKey
from fedafd.simulation.files import read_json
from fedafd.simulation.run import score_of

__all__ = [
    "ClientDifference",
    "Difference",
    "Row",
    "client_differences",
    "differences",
    "global_differences",
    "half_width",
    "measures_of",
    "not_done",
    "read_results",
    "rows_of",
]

_MEASURES = ("mean", "server rsum", "image acc1", "text acc1", "pair rsum", "image own acc1", "text own acc1")
"""`mean`: of the kinds' metrics in percent of their best value, a pair client's being its mean recall (rsum / 6).
`own`: weighted by the client's own label distribution. Other tasks add their own metric, such as `image lrap`."""

_METRICS = {"image": "acc1", "text": "acc1", "pair": "rsum"}
"""Of the usual task of each kind, in the order of the tables."""
_RECALLS = ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10")


class Row(NamedTuple):
    """One run: test figures by measure."""

    scenario: str
    strategy: str
    seed: int
    values: dict[str, float]
    recalls: dict[str, float]
    clients: dict[str, float]
    """Each client's own metric: that of its task, of the personalized model."""
    over_global: dict[str, float]
    """By how much each pair client's personalized model is above the frozen global model on the test split."""
    scores: dict[str, Mapping[str, Sequence[float]]]
    """Each client's test samples' parts of its metric, by view; nothing of a run of an older version."""
    seconds: float
    cost: dict[str, float]
    """By the names of fedafd.simulation.cost.COSTS; empty for a run that counted no costs."""


class Difference(NamedTuple):
    """Mean of paired differences with its 95 % interval; infinite with a single pair."""

    scenario: str
    strategy: str
    measure: str
    mean: float
    low: float
    high: float
    seeds: int

    @property
    def shown(self) -> str:
        """`better`, `worse` or `not shown`: only what the interval says."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "not shown"


class ClientDifference(NamedTuple):
    """One client in one run: its own metric under one model less that under another."""

    mean: float
    standard_error: float | None
    """Of `mean`, over test samples (fedafd.learning.comparison); None where a run did not keep their scores."""

    @property
    def beyond_noise(self) -> bool | None:
        """Whether it is more than one standard error; None where that is not known."""
        return None if self.standard_error is None else abs(self.mean) > self.standard_error


def read_results(experiment: ExperimentConfig, output: Path) -> list[dict[str, Any]]:
    """Results of the runs that are done, in the experiment's order. Raises DataError for a broken file."""
    files = [output / key.folder / "result.json" for key in experiment.runs()]
    return [read_json(file) for file in files if file.exists()]


def not_done(experiment: ExperimentConfig, rows: Sequence[Row]) -> list[RunKey]:
    """Runs without a row."""
    done = {(row.scenario, row.strategy, row.seed) for row in rows}
    return [key for key in experiment.runs() if (key.scenario, key.strategy, key.seed) not in done]


def rows_of(results: Sequence[Mapping[str, Any]]) -> list[Row]:
    """One row per run."""
    return [_row(result) for result in results]


def _row(result: Mapping[str, Any]) -> Row:
    groups: dict[tuple[int, str, str, float], list[Mapping[str, float]]] = {}
    over, clients, scores = {}, {}, {}
    for name, client in sorted(result["clients"].items()):
        metrics = client["metrics"]
        kind, metric = client["kind"], client.get("metric", _METRICS[client["kind"]])
        highest = float(client.get("highest", 600 if metric == "rsum" else 100))
        groups.setdefault((list(_METRICS).index(kind), kind, metric, highest), []).append(metrics)
        clients[name] = score_of(metrics, metric)
        scores[name] = client.get("scores", {})
        if "global/rsum" in metrics:
            over[name] = metrics["federated/rsum"] - metrics["global/rsum"]
    values = {"server rsum": result["server"]["metrics"]["rsum"]}
    shares = []
    for (_, kind, metric, highest), of_group in sorted(groups.items(), key=lambda group: group[0]):
        value = fmean(metrics[f"federated/{metric}"] for metrics in of_group)
        values[f"{kind} {metric}"] = value
        shares.append(value / (highest / 100))
        if all("federated/own_acc1" in metrics for metrics in of_group):
            values[f"{kind} own acc1"] = fmean(metrics["federated/own_acc1"] for metrics in of_group)
    return Row(
        result["scenario"],
        result["strategy"],
        int(result["seed"]),
        {"mean": fmean(shares)} | values,
        {name: result["server"]["metrics"][name] for name in _RECALLS},
        clients,
        over,
        scores,
        float(result["seconds"]),
        dict(result.get("cost", {})),
    )


def measures_of(rows: Sequence[Row]) -> list[str]:
    """All measures that rows can have, those of the usual tasks first."""
    return list(dict.fromkeys([*_MEASURES, *(name for row in rows for name in row.values)]))


def differences(rows: Sequence[Row], baseline: str, confidence: float = 0.95) -> list[Difference]:
    """`baseline` minus each other strategy, per scenario and, where there are several, over all of them."""
    values_of = {(row.scenario, row.strategy, row.seed): row.values for row in rows}
    scenarios = list(dict.fromkeys(row.scenario for row in rows))
    strategies = [name for name in dict.fromkeys(row.strategy for row in rows) if name != baseline]
    seeds = list(dict.fromkeys(row.seed for row in rows))
    measures = measures_of(rows)
    results = []
    for group in [[name] for name in scenarios] + ([scenarios] if len(scenarios) > 1 else []):
        for strategy in strategies:
            for measure in measures:
                by_seed = [_gains(values_of, group, baseline, strategy, measure, seed) for seed in seeds]
                gains = [fmean(paired) for paired in by_seed if len(paired) == len(group)]
                if gains:
                    mean, half = fmean(gains), half_width(gains, confidence)
                    scenario = group[0] if len(group) == 1 else "all"
                    results.append(Difference(scenario, strategy, measure, mean, mean - half, mean + half, len(gains)))
    return results


def _gains(
    values_of: Mapping[tuple[str, str, int], Mapping[str, float]],
    scenarios: Sequence[str],
    baseline: str,
    strategy: str,
    measure: str,
    seed: int,
) -> list[float]:
    """One seed's differences, of the scenarios in which both strategies were run."""
    pairs = [(values_of.get((s, baseline, seed), {}), values_of.get((s, strategy, seed), {})) for s in scenarios]
    return [own[measure] - other[measure] for own, other in pairs if measure in own and measure in other]


def client_differences(rows: Sequence[Row], strategy: str, other: str) -> dict[str, ClientDifference]:
    """Each client's own metric under `strategy` less that under `other`, by `<scenario>, seed <n>, <client>`."""
    other_rows = {(row.scenario, row.seed): row for row in rows if row.strategy == other}
    return {
        f"{row.scenario}, seed {row.seed}, {name}": ClientDifference(
            value - partner.clients[name],
            _standard_error(row.scores[name].get("federated"), partner.scores[name].get("federated")),
        )
        for row in rows
        if row.strategy == strategy and (partner := other_rows.get((row.scenario, row.seed))) is not None
        for name, value in row.clients.items()
    }


def global_differences(rows: Sequence[Row], strategy: str) -> dict[str, ClientDifference]:
    """Each pair client under `strategy` less the frozen global model, by `<scenario>, seed <n>, <client>`."""
    return {
        f"{row.scenario}, seed {row.seed}, {name}": ClientDifference(
            value, _standard_error(row.scores[name].get("federated"), row.scores[name].get("global"))
        )
        for row in rows
        if row.strategy == strategy
        for name, value in row.over_global.items()
    }


def _standard_error(scores: Sequence[float] | None, others: Sequence[float] | None) -> float | None:
    return None if not scores or not others else paired_difference(scores, others).standard_error


def half_width(values: Sequence[float], confidence: float = 0.95) -> float:
    """Of the interval around the mean, by Student's t; infinite for a single value."""
    if len(values) < 2:
        return math.inf
    from scipy.stats import t

    return float(t.ppf((1 + confidence) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
