"""Plots of an experiment: curves per round, bars per strategy with a point per seed. PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from fedafd.simulation.experiment import ExperimentConfig
from fedafd.simulation.run import score_of
from fedafd.simulation.summary import Row, measures_of

__all__ = ["draw_plots"]


def draw_plots(
    experiment: ExperimentConfig, results: Sequence[Mapping[str, Any]], rows: Sequence[Row], output: Path
) -> list[Path]:
    """Draw per scenario; returns the files."""
    import matplotlib as mpl

    mpl.use("Agg")
    files = []
    for scenario in experiment.scenarios:
        here = [result for result in results if result["scenario"] == scenario]
        if here:
            files.append(_curves(scenario, here, output / f"curves-{scenario}.png"))
            files.append(_bars(scenario, [row for row in rows if row.scenario == scenario], output))
    return files


def _curves(scenario: str, results: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Validation figures per round: the mean over seeds, and the band from the least to the greatest."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    panels = ["server", *sorted({client["kind"] for client in results[0]["clients"].values()})]
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.8), squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        for index, strategy in enumerate(dict.fromkeys(result["strategy"] for result in results)):
            lines = [_line(result, panel) for result in results if result["strategy"] == strategy]
            columns = list(zip(*lines, strict=False))
            rounds, colour = range(1, len(columns) + 1), f"C{index % 10}"
            style = "-" if index < 10 else "--"
            axis.plot(rounds, [fmean(c) for c in columns], style, color=colour, label=strategy, linewidth=1.4)
            if len(lines) > 1:
                axis.fill_between(rounds, [min(c) for c in columns], [max(c) for c in columns], color=colour, alpha=0.1)
        axis.set_title(f"{panel}: {_metrics(results, panel)} (validation)", fontsize=10)
        axis.set_xlabel("round")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6), fontsize=8, frameon=False)
    figure.suptitle(scenario, fontsize=11)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _line(result: Mapping[str, Any], panel: str) -> list[float]:
    if panel == "server":
        return [entry["server"]["rsum"] for entry in result["rounds"]]
    names = [name for name, client in result["clients"].items() if client["kind"] == panel]
    return [
        fmean(score_of(entry["clients"][name], result["clients"][name].get("metric")) for name in names)
        for entry in result["rounds"]
    ]


def _metrics(results: Sequence[Mapping[str, Any]], panel: str) -> str:
    """What a panel shows; clients of one kind may have several tasks."""
    usual = "rsum" if panel in ("server", "pair") else "acc1"
    clients = [client for result in results for client in result["clients"].values() if client["kind"] == panel]
    return ", ".join(dict.fromkeys(client.get("metric", usual) for client in clients)) or usual


def _bars(scenario: str, rows: Sequence[Row], output: Path) -> Path:
    """Test figures: a bar per strategy, its standard deviation over seeds, and each seed as a point."""
    from matplotlib import pyplot as plt

    shown = [measure for measure in measures_of(rows) if " own " not in measure]
    measures = [measure for measure in shown if any(measure in row.values for row in rows)]
    strategies = list(dict.fromkeys(row.strategy for row in rows))
    size = (3.6 * len(measures), 0.36 * len(strategies) + 1.4)
    figure, axes = plt.subplots(1, len(measures), figsize=size, squeeze=False, sharey=True)
    for axis, measure in zip(axes[0], measures, strict=True):
        for index, strategy in enumerate(strategies):
            values = [row.values[measure] for row in rows if row.strategy == strategy]
            error = stdev(values) if len(values) > 1 else 0.0
            axis.barh(index, fmean(values), xerr=error, color=f"C{index % 10}", alpha=0.55, error_kw={"linewidth": 1})
            axis.plot(values, [index] * len(values), "k.", markersize=4)
        axis.set_title(f"{measure} (test)", fontsize=10)
        axis.set_yticks(range(len(strategies)), strategies, fontsize=8)
        axis.grid(axis="x", alpha=0.3)
    axes[0][0].invert_yaxis()
    figure.suptitle(scenario, fontsize=11)
    figure.tight_layout()
    path = output / f"bars-{scenario}.png"
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path
