"""Two outputs of `fedafd simulate` side by side: paired differences of the runs that both have, second minus first.

A pair is of one scenario and one seed, so of the same data, partition and initial weights; the data are compared by
their fingerprints. Intervals are those of fedafd.simulation.summary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from fedafd.domain.counted import counted
from fedafd.domain.errors import ConfigurationError
from fedafd.simulation.experiment import RunKey
from fedafd.simulation.files import read_json
from fedafd.simulation.kept_runs import changed_data, changed_settings, kept_files
from fedafd.simulation.summary import ClientDifference, Difference, Row, client_differences, differences, rows_of

__all__ = ["Comparison", "compare"]

_FIRST, _SECOND = "first", "second"
_MOST = 8


class _Run(NamedTuple):
    row: Row
    record: Mapping[str, Any]
    """run.json, or nothing of an older run."""


class Comparison(NamedTuple):
    """What compare found."""

    first: Path
    second: Path
    rows: dict[str, list[Row]]
    """By title, such as `fedafd` or `fedafd against local`: the runs of both, as strategies `first` and `second`."""
    differences: dict[str, list[Difference]]
    settings: dict[str, tuple[str, str]]
    """Settings that differ in some pair, with their values in its first and second."""
    data: dict[str, tuple[str, str]]
    """Data that differ in some pair."""
    alone: list[str]
    """Runs that the other output does not have."""

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON; an interval of one pair has no ends."""
        return {
            "first": str(self.first),
            "second": str(self.second),
            "settings": {path: list(values) for path, values in self.settings.items()},
            "data": {name: list(values) for name, values in self.data.items()},
            "without_a_partner": self.alone,
            "differences": [
                {
                    "strategy": title,
                    "scenario": d.scenario,
                    "measure": d.measure,
                    **dict(zip((_FIRST, _SECOND), _means(self.rows[title], d), strict=True)),
                    "mean": d.mean,
                    "low": d.low if math.isfinite(d.low) else None,
                    "high": d.high if math.isfinite(d.high) else None,
                    "shown": d.shown,
                    "seeds": d.seeds,
                }
                for title, differences_of_title in self.differences.items()
                for d in differences_of_title
            ],
            "clients": {
                title: {name: d.mean for name, d in client_differences(rows, _SECOND, _FIRST).items()}
                for title, rows in self.rows.items()
            },
            "clients_standard_errors": {
                title: {name: d.standard_error for name, d in client_differences(rows, _SECOND, _FIRST).items()}
                for title, rows in self.rows.items()
            },
        }

    def markdown(self) -> str:
        """A table for each strategy and scenario, after what differs and is left out."""
        parts = [f"## {self.second} minus {self.first}", "", *self._apart()]
        for title, of_title in self.differences.items():
            for scenario in dict.fromkeys(d.scenario for d in of_title):
                here = [d for d in of_title if d.scenario == scenario]
                seeds = counted(here[0].seeds, "seed")
                parts += [
                    f"### {title}, {scenario}, {seeds}",
                    "",
                    "| measure | first | second | second minus first | |",
                ]
                parts += ["|---|---|---|---|---|", *(_line(d, self.rows[title]) for d in here), ""]
            parts += [_clients(title, client_differences(self.rows[title], _SECOND, _FIRST)), ""]
        return "\n".join([*parts, _on_intervals(self.differences)]) + "\n"

    def _apart(self) -> Iterator[str]:
        for what, changes in (("Data", self.data), ("Settings", self.settings)):
            if changes:
                yield from (f"{what} that differ:", "")
                for name, (one, other) in list(changes.items())[:_MOST]:
                    yield f"- {name}: {one} in the first, {other} in the second"
                yield from ([f"- and {len(changes) - _MOST} more", ""] if len(changes) > _MOST else [""])
        if not self.settings:
            yield from ("Their settings are the same.", "")
        if all(row.values == other.values for rows in self.rows.values() for row, other in _side_by_side(rows)):
            yield from ("All figures are the same in both: one repeats the other, or is a copy of it.", "")
        if self.alone:
            more = f" and {len(self.alone) - _MOST} more" if len(self.alone) > _MOST else ""
            yield from (f"Without a partner, left out: {', '.join(self.alone[:_MOST])}{more}.", "")


def compare(
    first: Path, second: Path, *, strategy: str | None = None, against: str | None = None, other_data: bool = False
) -> Comparison:
    """Compare the second output with the first; `strategy` is one of the second, `against` that of the first.

    Without them every strategy that both have is compared with itself. Raises ConfigurationError where no runs pair,
    where they would pair with themselves, or where their data differ and `other_data` does not allow it.
    """
    if first.resolve() == second.resolve() and (strategy is None or against in (None, strategy)):
        raise ConfigurationError(
            f"{first} and {second}: one and the same output, so that each run would be compared with itself; give"
            " another, or two of its strategies: --strategy ONE --against OTHER"
        )
    runs = {_FIRST: _read(first), _SECOND: _read(second)}
    pairs = _pairs(runs, first, second, strategy, against)
    settings: dict[str, tuple[str, str]] = {}
    data: dict[str, tuple[str, str]] = {}
    for one, other in (pair for paired in pairs.values() for pair in paired):
        if "configuration" in one.record and "configuration" in other.record:
            settings |= changed_settings(one.record["configuration"], other.record["configuration"])
        if "data" in one.record and "data" in other.record:
            data |= changed_data(one.record["data"], other.record["data"])
    if data and not other_data:
        changes = "; ".join(f"{name}: {one} and {two}" for name, (one, two) in list(data.items())[:_MOST])
        raise ConfigurationError(
            f"{first} and {second}: made from other data ({changes}), so that their runs are no pairs; add --other-data"
            " to compare them all the same"
        )
    rows = {
        title: [run.row._replace(strategy=name) for pair in paired for run, name in zip(pair, _NAMES, strict=True)]
        for title, paired in pairs.items()
    }
    compared = {title: differences(title_rows, _SECOND) for title, title_rows in rows.items()}
    used = [{id(pair[side]) for paired in pairs.values() for pair in paired} for side in (0, 1)]
    wanted = ((first, runs[_FIRST], against or strategy), (second, runs[_SECOND], strategy or against))
    left = [
        f"{key.name} of {output}"
        for (output, runs_read, name), used_ids in zip(wanted, used, strict=True)
        for key, run in runs_read.items()
        if name in (None, key.strategy) and id(run) not in used_ids
    ]
    return Comparison(first, second, rows, compared, settings, data, left)


_NAMES = (_FIRST, _SECOND)


def _side_by_side(rows: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """Pairs, as `compare` lists them: each run of the first is before its partner."""
    return zip(rows[::2], rows[1::2], strict=True)


def _read(output: Path) -> dict[RunKey, _Run]:
    runs = {}
    for _, path in kept_files(output, "result.json"):
        (row,) = rows_of([read_json(path)])
        record = read_json(path.with_name("run.json")) if path.with_name("run.json").exists() else {}
        runs[RunKey(scenario=row.scenario, strategy=row.strategy, seed=row.seed)] = _Run(row, record)
    if not runs:
        raise ConfigurationError(f"{output}: holds no finished run; give the --output of a `fedafd simulate`")
    return runs


def _pairs(
    runs: Mapping[str, Mapping[RunKey, _Run]], first: Path, second: Path, strategy: str | None, against: str | None
) -> dict[str, list[tuple[_Run, _Run]]]:
    """Pairs by title, each of a run of the first and one of the second."""
    there = {name: list(dict.fromkeys(key.strategy for key in strategy_runs)) for name, strategy_runs in runs.items()}
    wanted = [strategy] if strategy is not None else [against] if against is not None else there[_SECOND]
    paired: dict[str, list[tuple[_Run, _Run]]] = {}
    for name in wanted:
        partner = against or name
        for key, run in runs[_SECOND].items():
            other = key.model_copy(update={"strategy": partner})
            if key.strategy == name and other in runs[_FIRST]:
                title = name if name == partner else f"{name} against {partner}"
                paired.setdefault(title, []).append((runs[_FIRST][other], run))
    if not paired:
        raise ConfigurationError(
            f"{first} and {second}: no run of the same scenario, seed and strategy; the first has strategies"
            f" {', '.join(there[_FIRST])}, the second {', '.join(there[_SECOND])}; --strategy names one of the second,"
            " --against one of the first"
        )
    return paired


def _means(rows: Sequence[Row], d: Difference) -> tuple[float, float]:
    """Of the first and the second, over the runs that the difference is of."""
    of_scenario = [row for row in rows if d.scenario in (row.scenario, "all") and d.measure in row.values]
    number = len({row.scenario for row in of_scenario}) * len(_NAMES)
    whole = [row for row in of_scenario if sum(other.seed == row.seed for other in of_scenario) == number]
    one, other = ([row.values[d.measure] for row in whole if row.strategy == name] for name in _NAMES)
    return fmean(one), fmean(other)


def _line(d: Difference, rows: Sequence[Row]) -> str:
    one, other = _means(rows, d)
    interval = f"{d.mean:+.1f} (one seed)" if math.isinf(d.low) else f"{d.mean:+.1f} [{d.low:+.1f}, {d.high:+.1f}]"
    verdict = "" if d.shown == "not shown" else d.shown
    return f"| {d.measure} | {one:.1f} | {other:.1f} | {interval} | {verdict} |"


def _clients(title: str, gains: Mapping[str, ClientDifference]) -> str:
    lower = {name: d for name, d in gains.items() if d.mean < 0}
    most = min(lower, key=lambda name: lower[name].mean, default="")
    largest = f", most of all {most} by {-lower[most].mean:.1f}" if lower else ""
    sure = sum(d.beyond_noise is True for d in lower.values())
    known = all(d.standard_error is not None for d in lower.values())
    beyond = f"; {sure} of them by more than one standard error over test samples" if lower and known else ""
    return f"Clients of {title} that are lower in the second: {len(lower)} of {len(gains)}{largest}{beyond}."


def _on_intervals(by_title: Mapping[str, Sequence[Difference]]) -> str:
    intervals = [d for of_title in by_title.values() for d in of_title if math.isfinite(d.low)]
    if not intervals:
        return "With one seed there is no interval: nothing is shown."
    return (
        "Intervals are of 95 %, over seeds. Better or worse is said where one leaves 0 out, as"
        f" {sum(d.shown != 'not shown' for d in intervals)} of {len(intervals)} do; where nothing differs, 1 in 20 does"
        " by chance."
    )
