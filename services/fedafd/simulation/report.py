"""What an experiment leaves behind: results in JSON, CSV and Markdown, the plots, and a page of tables and plots."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from fedafd.domain.counted import counted
from fedafd.simulation.cost import COSTS
from fedafd.simulation.experiment import ExperimentConfig, RunKey
from fedafd.simulation.failures import failures_in
from fedafd.simulation.files import write_json
from fedafd.simulation.html_page import html_page
from fedafd.simulation.made_with import made_with_note
from fedafd.simulation.no_effect import settings_without_effect
from fedafd.simulation.plots import draw_plots
from fedafd.simulation.summary import (
    ClientDifference,
    Difference,
    Row,
    client_differences,
    differences,
    global_differences,
    measures_of,
    not_done,
    read_results,
    rows_of,
)

__all__ = ["markdown", "write_report"]

_NOISE = {
    True: "By more than one standard error of the paired difference over test samples",
    False: "By less than one, which cannot be told from noise",
    None: "Not known whether that is noise, since these runs kept no scores",
}
"""What is said of clients that are below, by ClientDifference.beyond_noise."""


def write_report(experiment: ExperimentConfig, output: Path) -> list[Path]:
    """Write all files from the runs that are done; returns their paths. Raises DataError."""
    results = read_results(experiment, output)
    rows = rows_of(results)
    compared = differences(rows, experiment.baseline)
    failed = failures_in(output, not_done(experiment, rows))
    _write_json(experiment, output, results, rows, compared, failed)
    _write_csv(output / "results.csv", rows)
    text = markdown(experiment, rows, compared, failed)
    done = [key for key in experiment.runs() if key not in not_done(experiment, rows)]
    if note := made_with_note(output, done):
        text += f"\n{note}\n"
    (output / "results.md").write_text(text, encoding="utf-8")
    plots = draw_plots(experiment, results, rows, output) if rows else []
    (output / "results.html").write_text(html_page(experiment.name, text, plots), encoding="utf-8")
    return [output / f"results.{ending}" for ending in ("html", "json", "csv", "md")] + plots


def markdown(
    experiment: ExperimentConfig,
    rows: Sequence[Row],
    compared: Sequence[Difference],
    failed: Mapping[RunKey, str] | None = None,
) -> str:
    """The tables: means with standard deviations over seeds, then paired differences; first what is missing in them."""
    parts = _missing(experiment, rows, failed or {})
    for scenario in experiment.scenarios:
        here = [row for row in rows if row.scenario == scenario]
        if here:
            parts += [f"### {scenario}", "", *_means(here), "", *_recalls(here), ""]
    present = {(d.scenario, d.strategy) for d in compared}
    for scenario in [*experiment.scenarios, "all"]:
        names = [name for name in experiment.strategies if (scenario, name) in present]
        if names:
            title = f"### {experiment.baseline} minus the others, {scenario}: paired, 95 % intervals"
            parts += [title, "", *_differences([d for d in compared if d.scenario == scenario], names), ""]
    parts += _checks(experiment, rows)
    parts += _costs(rows)
    if idle := settings_without_effect(experiment):
        parts += ["", "Settings without effect:", "", *(f"- {sentence}" for sentence in idle)]
    return "\n".join(parts).rstrip() + "\n"


def _missing(experiment: ExperimentConfig, rows: Sequence[Row], failed: Mapping[RunKey, str]) -> list[str]:
    missing = not_done(experiment, rows)
    if not missing:
        return []
    which = f"{len(missing)} of {counted(len(experiment.runs()), 'run')} {'is' if len(missing) == 1 else 'are'}"
    lines = [f"**{which} not done: the tables are without them.**", ""]
    lines += [f"- {key.name} failed: {reason}" for key, reason in failed.items()]
    return [*lines, ""] if failed else lines


def _means(rows: Sequence[Row]) -> list[str]:
    measures = [m for m in measures_of(rows) if any(m in row.values for row in rows)]
    lines = [f"| strategy | seeds | {' | '.join(measures)} |", "|---" * (len(measures) + 2) + "|"]
    for strategy in dict.fromkeys(row.strategy for row in rows):
        own = [row for row in rows if row.strategy == strategy]
        cells = [_spread([row.values[m] for row in own if m in row.values]) for m in measures]
        lines.append(f"| {strategy} | {len(own)} | {' | '.join(cells)} |")
    return lines


def _recalls(rows: Sequence[Row]) -> list[str]:
    lines = ["| strategy | server i2t R@1 / R@5 / R@10 | server t2i R@1 / R@5 / R@10 |", "|---|---|---|"]
    for strategy in dict.fromkeys(row.strategy for row in rows):
        own = [row.recalls for row in rows if row.strategy == strategy]
        cells = [
            " / ".join(f"{fmean(row[f'{way}_r{k}'] for row in own):.1f}" for k in (1, 5, 10)) for way in ("i2t", "t2i")
        ]
        lines.append(f"| {strategy} | {cells[0]} | {cells[1]} |")
    return lines


def _costs(rows: Sequence[Row]) -> list[str]:
    """Means over all runs of a strategy; nothing where an older run tells no cost."""
    costs = [cost for cost in COSTS if rows and all(cost in row.cost for row in rows)]
    if not costs:
        return []
    lines = ["", "### Cost of a run, and of a site in a round", "", f"| strategy | runs | {' | '.join(costs)} |"]
    lines.append("|---" * (len(costs) + 2) + "|")
    for strategy in dict.fromkeys(row.strategy for row in rows):
        own = [row.cost for row in rows if row.strategy == strategy]
        cells = [_three_digits(fmean(cost[name] for cost in own)) for name in costs]
        lines.append(f"| {strategy} | {len(own)} | {' | '.join(cells)} |")
    return lines


def _three_digits(value: float) -> str:
    """The first three that count; large values as whole numbers."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _differences(compared: Sequence[Difference], names: Sequence[str]) -> list[str]:
    measures = list(dict.fromkeys(d.measure for d in compared))
    lines = [f"| against | seeds | {' | '.join(measures)} |", "|---" * (len(measures) + 2) + "|"]
    for name in names:
        own = {d.measure: d for d in compared if d.strategy == name}
        cells = [_interval(own[m]) if m in own else "" for m in measures]
        lines.append(f"| {name} | {next(iter(own.values())).seeds} | {' | '.join(cells)} |")
    return lines


def _interval(d: Difference) -> str:
    if math.isinf(d.low):
        return f"{d.mean:+.1f} (one seed)"
    text = f"{d.mean:+.1f} [{d.low:+.1f}, {d.high:+.1f}]"
    return text if d.shown == "not shown" else f"**{text}**"


def _checks(experiment: ExperimentConfig, rows: Sequence[Row]) -> list[str]:
    """What is said of single clients; nothing of those that the experiment does not have."""
    baseline = experiment.baseline
    own = [row for row in rows if row.strategy == baseline]
    if not own:
        return [f"No run of {baseline} is done: nothing is said of its clients."]
    paragraphs = [*_against_global(baseline, rows), *_against_alone(experiment, rows)]
    return [line for part in paragraphs for line in (part, "")][:-1]


def _against_global(baseline: str, rows: Sequence[Row]) -> list[str]:
    over = global_differences(rows, baseline)
    if not over:
        return []
    below = {name: d for name, d in over.items() if d.mean < 0}
    verdict = f"below in {counted(len(below), 'case')}. {_loss_sentences(below)}" if below else "never below."
    if not any(d.mean for d in over.values()):
        verdict = "equal in each, as where nothing but the global model is used."
    runs = sum(row.strategy == baseline for row in rows)
    return [
        f"Pair clients of {baseline} against the frozen global model on the test split,"
        f" {counted(len(over), 'case')} in {counted(runs, 'run')}: {verdict}"
    ]


def _against_alone(experiment: ExperimentConfig, rows: Sequence[Row]) -> list[str]:
    baseline, alone = experiment.baseline, experiment.alone()
    if alone is None:
        return []
    gains = client_differences(rows, baseline, alone)
    if not gains:
        return [f"No run of {alone} is done for the same scenario and seed: nothing to compare {baseline} with."]
    below = {name: d for name, d in gains.items() if d.mean < 0}
    words = f"{len(below)} of {len(gains)} below." + (f" {_loss_sentences(below)}" if below else "")
    return [f"Clients of {baseline} against themselves under {alone} on the test split: {words}"]


def _loss_sentences(below: Mapping[str, ClientDifference]) -> str:
    """Each by how much, farthest first, and whether that can be told from noise."""
    sentences = []
    for is_sure, words in _NOISE.items():
        names = [name for name in sorted(below, key=lambda n: below[n].mean) if below[name].beyond_noise is is_sure]
        if names:
            sentences.append(f"{words}: {'; '.join(f'{name} {_loss(below[name])}' for name in names)}.")
    if any(d.beyond_noise for d in below.values()):
        sentences.append("By chance alone 1 in 6 clients would be below by so much.")
    return " ".join(sentences)


def _loss(d: ClientDifference) -> str:
    return f"by {-d.mean:.1f}" + ("" if d.standard_error is None else f" ± {d.standard_error:.1f}")


def _spread(values: Sequence[float]) -> str:
    return f"{fmean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{fmean(values):.1f}"


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        names = [*measures_of(rows), *(f"server {name}" for name in (rows[0].recalls if rows else {}))]
        writer = csv.writer(file)
        writer.writerow(["scenario", "strategy", "seed", *names, "seconds"])
        for row in rows:
            values = row.values | {f"server {name}": value for name, value in row.recalls.items()}
            cells = [f"{values[name]:.4f}" if name in values else "" for name in names]
            writer.writerow([row.scenario, row.strategy, row.seed, *cells, f"{row.seconds:.1f}"])


def _without_scores(result: Mapping[str, Any]) -> dict[str, Any]:
    """A run's result as results.json has it: what is said of single samples stays with the run."""
    clients = {
        name: {key: value for key, value in client.items() if key != "scores"}
        for name, client in result["clients"].items()
    }
    return {**result, "clients": clients}


def _gains_of_clients(experiment: ExperimentConfig, rows: Sequence[Row]) -> dict[str, dict[str, ClientDifference]]:
    baseline, alone = experiment.baseline, experiment.alone()
    gains = {"global model": global_differences(rows, baseline)}
    return gains if alone is None else gains | {alone: client_differences(rows, baseline, alone)}


def _write_json(
    experiment: ExperimentConfig,
    output: Path,
    results: Sequence[Mapping[str, Any]],
    rows: Sequence[Row],
    compared: Sequence[Difference],
    failed: Mapping[RunKey, str],
) -> None:
    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    shown = [d._asdict() | {"low": finite(d.low), "high": finite(d.high), "shown": d.shown} for d in compared]
    content = {
        "experiment": experiment.model_dump(mode="json", exclude={"tracking"}),  # an address may hold a password
        "runs": [_without_scores(result) for result in results],
        "failed": [key.model_dump() | {"reason": reason} for key, reason in failed.items()],
        "differences": shown,
        "clients": {
            against: {client: d._asdict() for client, d in client_gains.items()}
            for against, client_gains in _gains_of_clients(experiment, rows).items()
        },
    }
    write_json(output / "results.json", content)
